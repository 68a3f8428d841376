"""The detectors of Hugging Face `transformers`, in our steps: encode, initial queries, decode(groups).

Their decoders decode all queries in one call; groups stay blind to one another by its attention mask. Nothing of a
model is changed: `save_pretrained` gives what `from_pretrained` reads.

RT-DETR, RT-DETR v2, D-FINE and DEIMv2 see images without padding, and their boxes are relative to the whole picture.
Here images are padded to a common size, a multiple of 32, and boxes are relative to the unpadded part: they are
converted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.detector import Detector
from oddetr.models.encoder import valid_ratio
from oddetr.models.groups import sights
from oddetr.models.heads import inverse_sigmoid
from oddetr.models.queries import token_anchors
from oddetr.structures import InitialQueries, Memory, Predictions, Queries

REAL_TIME = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")
"""`config.model_type` of the family of RT-DETR, whose models are alike in what is read of them here."""
SUPPORTED = ("deformable_detr", *REAL_TIME)
_LAYERS_FIRST = ("d_fine", "deimv2")
"""Whose decoders give hidden states by layer and image, others by image and layer."""
_STRIDE = 32


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def adapt(
    model: Any, mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]
) -> "HuggingFaceDetector":
    """A model for object detection of transformers as a detector.

    Raises:
        ValueError: of another kind than `SUPPORTED`; says why not.
    """
    kind = model.config.model_type
    check_kind(kind)
    adapter = HuggingFaceDeformableDetr if kind == "deformable_detr" else HuggingFaceRealTimeDetr
    return adapter(model, mean, std)


def check_kind(kind: str) -> None:
    """Raises ValueError for a model that is not supported, and says why not."""
    if kind in SUPPORTED:
        return
    cuts = "its decoder cuts its queries into the groups of Group DETR by their number"
    why = {"lw_detr": cuts, "rf_detr": cuts}.get(
        kind, "its decoder does not take queries, reference points and an attention mask as theirs do"
    )
    raise ValueError(f"transformers' {kind} cannot be trained here: {why}. Supported: {', '.join(SUPPORTED)}.")


class HuggingFaceDetector(Detector):
    """What the adapters share.

    Attributes:
        model: of transformers, `...ForObjectDetection`.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        nn.Module.__init__(self)
        self.model = model
        self._mean, self._std = mean, std
        self.denoising = None
        self.top_k = 100

    @property
    def mean(self) -> tuple[float, ...]:
        """What images are normalised with, RGB in [0, 1]."""
        return self._mean

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""
        return self._std

    @property
    def saved(self) -> nn.Module:
        """The model itself, so that `from_pretrained` reads what is saved."""
        return self.model

    def describe(self, folder: Path) -> None:
        """Writes its config.json."""
        self.config.save_pretrained(folder)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def position(
        self, anchors: Float[Tensor, "batch queries point_or_box"], learned: Float[Tensor, "batch queries width"] | None
    ) -> Float[Tensor, "batch queries width"] | None:
        """Position embeddings of queries that have moved to `anchors`."""
        return learned


class HuggingFaceDeformableDetr(HuggingFaceDetector):
    """`DeformableDetrForObjectDetection`: plain, with box refinement, or two-stage."""

    def encode(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        padding_mask: Bool[Tensor, "batch image_height image_width"],
    ) -> Memory:
        """Backbone, projections and encoder."""
        inner, pixel_mask = self.model.model, (~padding_mask).long()
        features = inner.backbone(images, pixel_mask)
        levels = [(inner.input_proj[index](features[index][0]), features[index][1]) for index in range(len(features))]
        for index in range(len(levels), self.config.num_feature_levels):
            source = features[-1][0] if index == len(features) else levels[-1][0]
            level = inner.input_proj[index](source)
            mask = F.interpolate(pixel_mask[None].to(images.dtype), size=level.shape[-2:]).to(torch.bool)[0]
            levels.append((level, mask))
        positions = [
            inner.position_embedding(shape=level.shape, device=level.device, dtype=images.dtype, mask=mask).to(
                level.dtype
            )
            for level, mask in levels
        ]
        shapes = tuple((level.shape[-2], level.shape[-1]) for level, _ in levels)
        valid = torch.cat([mask.flatten(1) for _, mask in levels], dim=1)
        ratios = torch.stack([inner.get_valid_ratio(mask, dtype=images.dtype) for _, mask in levels], dim=1)
        embedded = [
            position.flatten(2).transpose(1, 2) + embedding
            for position, embedding in zip(positions, inner.level_embed, strict=True)
        ]
        encoded = inner.encoder(
            inputs_embeds=torch.cat([level.flatten(2).transpose(1, 2) for level, _ in levels], dim=1),
            attention_mask=valid,
            spatial_position_embeddings=torch.cat(embedded, dim=1),
            valid_ratios=ratios,
            **_places(shapes, images.device),
        )
        return Memory(encoded.last_hidden_state, ~valid, shapes, ratios)

    def initial_queries(self, memory: Memory) -> InitialQueries:
        """Learned slots, or the encoder's best proposals."""
        inner, width = self.model.model, memory.tokens.shape[-1]
        if self.config.two_stage:
            anchors, usable = token_anchors(memory)
            content = inner.enc_output_norm(inner.enc_output(memory.tokens.masked_fill(~usable[..., None], 0.0)))
            logits = inner.decoder.class_embed[-1](content)
            boxes = (inner.decoder.bbox_embed[-1](content).float() + anchors).sigmoid()
            chosen = logits[..., 0].topk(min(self.config.two_stage_num_proposals, logits.shape[1]), dim=1).indices
            best = boxes.detach().gather(1, chosen[..., None].expand(-1, -1, 4))
            position, slots = self._embed(best).split(width, dim=-1)
            proposals = Predictions(logits[None].float(), boxes[None].float(), content[None])
            return InitialQueries(Queries(slots, best, position, chosen), proposals, class_agnostic=True)
        position, content = inner.query_position_embeddings.weight.split(width, dim=1)
        batch = memory.tokens.shape[0]
        identity = torch.arange(len(content), device=content.device).expand(batch, -1)
        anchors = inner.reference_points(position).float().sigmoid().expand(batch, -1, -1)
        return InitialQueries(Queries(content.expand(batch, -1, -1), anchors, position.expand(batch, -1, -1), identity))

    def position(
        self, anchors: Float[Tensor, "batch queries point_or_box"], learned: Float[Tensor, "batch queries width"] | None
    ) -> Float[Tensor, "batch queries width"] | None:
        """What was learned goes along; a two-stage detector's is computed from the anchors."""
        if learned is None or not self.config.two_stage:
            return learned
        return self._embed(anchors).split(learned.shape[-1], dim=-1)[0]

    def _embed(self, anchors: Tensor) -> Tensor:
        inner = self.model.model
        return inner.pos_trans_norm(inner.pos_trans(inner.get_proposal_pos_embed(torch.logit(anchors))))

    def decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """All groups in one call of the decoder, or in two where some anchors are points and others boxes."""
        found: dict[str, Predictions] = {}
        for kind in sorted({group.anchors.shape[-1] for group in groups.values()}):
            alike = {name: group for name, group in groups.items() if group.anchors.shape[-1] == kind}
            found |= self._decode(memory, alike)
        return {name: found[name] for name in groups}

    def _decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        anchors = torch.cat([group.anchors for group in groups.values()], dim=1)
        positions = [group.position for group in groups.values() if group.position is not None]
        decoded = self.model.model.decoder(
            inputs_embeds=torch.cat([group.content for group in groups.values()], dim=1),
            object_queries_position_embeddings=torch.cat(positions, dim=1),
            encoder_hidden_states=memory.tokens,
            encoder_attention_mask=~memory.padding_mask,
            reference_points=anchors,
            valid_ratios=memory.valid_ratios,
            attention_mask=_attention_mask(groups, anchors),
            **_places(memory.shapes, memory.tokens.device),
        )
        contents = decoded.intermediate_hidden_states.transpose(0, 1)
        references = [anchors, *decoded.intermediate_reference_points.unbind(1)]
        logits: list[Tensor] = []
        boxes: list[Tensor] = []
        for index, content in enumerate(contents):
            reference = inverse_sigmoid(references[index].float())
            reference = F.pad(reference, (0, 4 - reference.shape[-1]))
            logits.append(self.model.class_embed[index](content))
            boxes.append((self.model.bbox_embed[index](content).float() + reference).sigmoid())
        return _split(groups, torch.stack(logits), torch.stack(boxes), contents)


class HuggingFaceRealTimeDetr(HuggingFaceDetector):
    """RT-DETR and its descendants: queries are chosen from the encoder, boxes are refined layer by layer.

    Officially an image has as many detections as queries (300). Of D-FINE and DEIMv2 the first layer's preliminary
    boxes count as a layer of their own, as in their own loss; its terms for distributions (FGL, DDF) are not part of
    this training.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(model, mean, std)
        config = model.config
        self.top_k = max(self.top_k, config.num_queries)
        if config.num_denoising > 0:
            noise = {"box_noise": float(config.box_noise_scale), "label_noise": float(config.label_noise_ratio)}
            self.denoising = ContrastiveDenoising(config.num_labels, config.d_model, config.num_denoising, **noise)
            self.denoising.labels = model.model.denoising_class_embed

    def encode(
        self,
        images: Float[Tensor, "batch 3 image_height image_width"],
        padding_mask: Bool[Tensor, "batch image_height image_width"],
    ) -> Memory:
        """Backbone, hybrid encoder and projections."""
        inner = self.model.model
        height, width = images.shape[-2:]
        more = (0, -width % _STRIDE, 0, -height % _STRIDE)
        images, padding_mask = F.pad(images, more), F.pad(padding_mask, more, value=True)
        if self.config.model_type == "deimv2":
            encoded = inner.encoder(inner.conv_encoder(images)).feature_maps
        else:
            features = inner.backbone(images, torch.ones_like(padding_mask, dtype=images.dtype))
            projected = [layer(features[index][0]) for index, layer in enumerate(inner.encoder_input_proj)]
            encoded = inner.encoder(projected).last_hidden_state
        maps = [layer(encoded[min(index, len(encoded) - 1)]) for index, layer in enumerate(inner.decoder_input_proj)]
        tokens = torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1)
        shapes = tuple((each.shape[-2], each.shape[-1]) for each in maps)
        ratio = valid_ratio(padding_mask)
        nothing = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Memory(tokens, nothing, shapes, ratio[:, None].expand(-1, len(shapes), -1))

    def initial_queries(self, memory: Memory) -> InitialQueries:
        """The tokens whose best class scores highest."""
        inner = self.model.model
        tokens = memory.tokens
        anchors, usable = inner.generate_anchors(memory.shapes, device=tokens.device, dtype=torch.float32)
        content = inner.enc_output(usable.to(tokens.dtype) * tokens)
        logits = inner.enc_score_head(content)
        boxes = (inner.enc_bbox_head(content).float() + anchors).sigmoid() / _ratios(memory)
        chosen = logits.amax(dim=-1).topk(min(self.config.num_queries, tokens.shape[1]), dim=1).indices[..., None]
        logits, boxes, content = (
            each.gather(1, chosen.expand(-1, -1, each.shape[-1])) for each in (logits, boxes, content)
        )
        slots = content.detach()
        if self.config.learn_initial_query:
            slots = inner.weight_embedding.weight[: chosen.shape[1]].expand(tokens.shape[0], -1, -1)
        queries = Queries(slots, boxes.detach(), position=None, identity=chosen[..., 0])
        return InitialQueries(queries, Predictions(logits[None].float(), boxes[None].float(), content[None]))

    def decode(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """All groups in one call of the decoder."""
        decoder = self.model.model.decoder
        anchors = torch.cat([group.anchors for group in groups.values()], dim=1)
        # Only in training do D-FINE and DEIMv2 predict from all layers; their layers are asked for their own mode.
        mode, decoder.training = decoder.training, True
        try:
            decoded = decoder(
                inputs_embeds=torch.cat([group.content for group in groups.values()], dim=1),
                encoder_hidden_states=memory.tokens,
                encoder_attention_mask=_attention_mask(groups, anchors),
                reference_points=torch.logit(anchors * _ratios(memory)),
                **_places(memory.shapes, memory.tokens.device),
            )
        finally:
            decoder.training = mode
        logits = decoded.intermediate_logits.transpose(0, 1)
        boxes = decoded.intermediate_reference_points.transpose(0, 1) / _ratios(memory)
        contents = decoded.intermediate_hidden_states
        if self.config.model_type not in _LAYERS_FIRST:
            contents = contents.transpose(0, 1)
        contents = torch.cat([contents[:1]] * (len(logits) - len(contents)) + [contents])
        return _split(groups, logits, boxes, contents)


def _places(shapes: tuple[tuple[int, int], ...], device: torch.device) -> dict[str, Any]:
    """What their attention wants to know of the levels."""
    sizes = torch.tensor(shapes, dtype=torch.long, device=device)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    return {"spatial_shapes": sizes, "spatial_shapes_list": [*shapes], "level_start_index": starts}


def _ratios(memory: Memory) -> Tensor:
    """The unpadded part over the whole picture, for boxes: [B, 1, 4]."""
    return memory.valid_ratios[:, :1].repeat(1, 1, 2)


def _attention_mask(groups: Mapping[str, Queries], like: Tensor) -> Float[Tensor, "batch 1 queries queries"] | None:
    """0 where a query sees another, -inf where not; None where all see all."""
    (first, *others) = groups.values()
    if not others and first.padding is None and first.blind is None:
        return None
    lengths = [group.content.shape[1] for group in groups.values()]
    places = torch.arange(sum(lengths), device=like.device).split(lengths)
    sees = torch.zeros(like.shape[0], sum(lengths), sum(lengths), dtype=torch.bool, device=like.device)
    for rows, sight in zip(places, sights(groups), strict=True):
        columns = torch.cat([places[number] for number in sight.seen])
        visible = torch.ones(len(like), len(rows), len(columns), dtype=torch.bool, device=like.device)
        if sight.padding is not None:
            visible &= ~sight.padding[:, None]
        if sight.blind is not None:
            visible &= ~sight.blind
        sees[:, rows[:, None], columns] = visible
    mask = torch.zeros(sees.shape, dtype=torch.float32, device=like.device).masked_fill(~sees, -torch.inf)
    return mask[:, None]


def _split(groups: Mapping[str, Queries], logits: Tensor, boxes: Tensor, contents: Tensor) -> dict[str, Predictions]:
    lengths = [group.content.shape[1] for group in groups.values()]
    parts = (values.split(lengths, dim=2) for values in (logits.float(), boxes.float(), contents))
    return {name: Predictions(*each) for name, *each in zip(groups, *parts, strict=True)}
