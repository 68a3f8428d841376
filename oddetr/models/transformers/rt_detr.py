"""The adapter of transformers' RT-DETR, RT-DETR v2, D-FINE and DEIMv2."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.encoder import valid_ratio
from oddetr.models.queries import gather_tokens
from oddetr.models.transformers.base import HuggingFaceDetector, attention_mask, level_arguments, split_groups
from oddetr.structures import Images, InitialQueries, Memory, PaddingMask, Predictions, Queries

_LAYERS_FIRST = ("d_fine", "deimv2")
"""Kinds whose decoders give hidden states as [layers, batch, ...]; others give [batch, layers, ...]."""
_STRIDE = 32
_HOST = torch.device("cpu")
"""Where their decoders get the levels as tensors: layers only check them, and a GPU would have to be waited for."""


class HuggingFaceRealTimeDetr(HuggingFaceDetector):
    """RT-DETR and its descendants: queries are chosen from the encoder, boxes are refined layer by layer.

    Officially an image has as many detections as queries (300). Of D-FINE and DEIMv2 the first layer's preliminary
    boxes count as a layer of their own, as in their own loss; its terms for distributions (FGL, DDF) are not part of
    this training.

    These models see images without padding, and their boxes are relative to the padded picture. Here images are padded
    to a common size, a multiple of 32, and boxes are relative to the unpadded part: they are converted.
    """

    knows_padding = False

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(model, mean, std)
        config = model.config
        self.top_k = max(self.top_k, config.num_queries)
        if config.num_denoising > 0:
            noise = {"box_noise": float(config.box_noise_scale), "label_noise": float(config.label_noise_ratio)}
            self.denoising = ContrastiveDenoising(config.num_labels, config.d_model, config.num_denoising, **noise)
            self.denoising.labels = model.model.denoising_class_embed

    @property
    def encoding(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """DEIMv2 projects the backbone's maps in its `conv_encoder`."""
        inner = self.model.model
        first = (inner.conv_encoder,) if hasattr(inner, "conv_encoder") else (inner.backbone, inner.encoder_input_proj)
        return *first, inner.encoder, inner.decoder_input_proj

    def encode(self, images: Images, padding_mask: PaddingMask) -> Memory:
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
        chosen = logits.amax(dim=-1).topk(min(self.config.num_queries, tokens.shape[1]), dim=1).indices
        logits, boxes, content = (gather_tokens(each, chosen) for each in (logits, boxes, content))
        slots = content.detach()
        if self.config.learn_initial_query:
            slots = inner.weight_embedding.weight[: chosen.shape[1]].expand(tokens.shape[0], -1, -1)
        queries = Queries(slots, boxes.detach(), position=None, identity=chosen)
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
                encoder_attention_mask=attention_mask(groups, anchors),
                reference_points=torch.logit(anchors * _ratios(memory)),
                **level_arguments(memory.shapes, _HOST),
            )
        finally:
            decoder.training = mode
        logits = decoded.intermediate_logits.transpose(0, 1)
        boxes = decoded.intermediate_reference_points.transpose(0, 1) / _ratios(memory)
        contents = decoded.intermediate_hidden_states
        if self.config.model_type not in _LAYERS_FIRST:
            contents = contents.transpose(0, 1)
        contents = torch.cat([contents[:1]] * (len(logits) - len(contents)) + [contents])
        return split_groups(groups, logits, boxes, contents)


def _ratios(memory: Memory) -> Float[Tensor, "batch 1 4"]:
    """The unpadded part over the padded picture, for boxes."""
    return memory.valid_ratios[:, :1].repeat(1, 1, 2)
