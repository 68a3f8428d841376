"""The adapter of transformers' Deformable-DETR."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.encoder import resize_mask
from oddetr.models.heads import inverse_sigmoid
from oddetr.models.queries import gather_tokens, same_queries, token_anchors
from oddetr.models.transformers.base import HuggingFaceDetector, attention_mask, level_arguments, split_groups
from oddetr.structures import Anchors, Embeddings, Images, InitialQueries, Memory, PaddingMask, Predictions, Queries


class HuggingFaceDeformableDetr(HuggingFaceDetector):
    """`DeformableDetrForObjectDetection`: plain, with box refinement, or two-stage."""

    @property
    def first_is_object(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Two-stage, the head after those of the decoder's layers ranks the encoder's proposals by its first output."""
        return f"class_embed.{self.config.decoder_layers}." if self.config.two_stage else None

    @property
    def encoding(self) -> tuple[nn.Module | nn.Parameter, ...]:
        inner = self.model.model
        return self.backbone, inner.input_proj, inner.level_embed, inner.encoder

    def encode(self, images: Images, padding_mask: PaddingMask) -> Memory:
        """Backbone, projections and encoder."""
        inner = self.model.model
        features = [features for features, _ in inner.backbone(images, (~padding_mask).long())]
        maps = [inner.input_proj[index](each) for index, each in enumerate(features)]
        for index in range(len(maps), self.config.num_feature_levels):
            maps.append(inner.input_proj[index](features[-1] if index == len(features) else maps[-1]))
        # Not the backbone's own masks, which ONNX Runtime would round otherwise.
        levels = [(level, ~resize_mask(padding_mask, level.shape[-2:])) for level in maps]
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
            **level_arguments(shapes, images.device),
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
            best = gather_tokens(boxes.detach(), chosen)
            position, slots = self._embed(best).split(width, dim=-1)
            proposals = Predictions(logits[None].float(), boxes[None].float(), content[None])
            return InitialQueries(Queries(slots, best, position, chosen), proposals, class_agnostic=True)
        position, content = inner.query_position_embeddings.weight.split(width, dim=1)
        anchors = inner.reference_points(position).float().sigmoid()
        return InitialQueries(same_queries(memory, content, anchors, position))

    def position(self, anchors: Anchors, learned: Embeddings | None) -> Embeddings | None:
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
            attention_mask=attention_mask(groups, anchors),
            **level_arguments(memory.shapes, memory.tokens.device),
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
        return split_groups(groups, torch.stack(logits), torch.stack(boxes), contents)
