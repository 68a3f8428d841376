"""What the adapters of `transformers` detectors share.

Their decoders decode all queries in one call; an attention mask keeps the groups apart. Nothing of a model is changed:
`save_pretrained` writes what `from_pretrained` reads.
"""

import math
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.models.detector import Detector
from oddetr.models.group_attention import attention_of
from oddetr.models.heads import PRIOR
from oddetr.models.kernels.choice import is_traced
from oddetr.structures import Anchors, Embeddings, Predictions, Queries, Shapes

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OUTPUTS = re.compile(r"(^|\.)(class_embed(\.\d+)?|enc_score_head)\.(weight|bias)$")
_LABELS = re.compile(r"(denoising\.labels|denoising_class_embed)\.weight$")


def is_output(name: str) -> bool:
    """Whether a weight's size is the number of classes: of a class head, or of denoising's labels."""
    return bool(_OUTPUTS.search(name) or _LABELS.search(name))


class HuggingFaceDetector(Detector):
    """Base class of the adapters.

    Attributes:
        model: of transformers, `...ForObjectDetection`.
        first_is_object: name of the encoder's outputs whose first row means "is an object", or None.
    """

    query_source = None
    first_is_object: str | None = None

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self._mean, self._std = mean, std
        self.denoising = None
        self.top_k = 100

    @property
    def backbone(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model's backbone; DEIMv2 has another name for it."""
        inner = self.model.model
        return inner.backbone if hasattr(inner, "backbone") else inner.conv_encoder.model

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._std

    @property
    def saved(self) -> nn.Module:
        """The model itself, so that `from_pretrained` reads what is saved."""
        return self.model

    def describe(self, folder: Path) -> None:
        """Writes the model's config.json."""
        self.config.save_pretrained(folder)

    def class_rows(self) -> dict[str, tuple[int, ...]]:
        """The class outputs by their names in transformers, tied ones under each name, and denoising's labels."""
        rows: dict[str, tuple[int, ...]] = {}
        for name in self.state_dict():
            if _OUTPUTS.search(name):
                rows[name] = (0,) if self.first_is_object and self.first_is_object in name else ()
            elif _LABELS.search(name):
                rows[name] = (-1,)
        return rows

    def initialise(self) -> None:
        """Mend transformers' random weights where training from them would stall.

        Every class output begins at `PRIOR`; transformers has 1 / (classes + 1) for some kinds and 1/2 for others. The
        convolutions of an HGNetV2 keep the variance of what they see (He et al. 2015, by the inputs, which are few in
        depthwise ones); transformers' are so small that behind frozen norms nothing of an image is left. Batch norms
        begin as the identity, as in the official code; transformers draws RT-DETR's weights with a deviation of 0.01.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if self.config.backbone_config.model_type == "hgnet_v2":
            for module in self.backbone.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        state = self.state_dict()
        for name in self.class_rows():
            if name.endswith(".bias"):
                nn.init.constant_(state[name], -math.log((1 - PRIOR) / PRIOR))

    @contextmanager
    def exporting(self) -> Generator[None]:
        """Switches off transformers' checks of tensor sizes, which cannot be written as ONNX."""
        with mock.patch.dict(os.environ, {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}):
            yield

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def position(self, anchors: Anchors, learned: Embeddings | None) -> Embeddings | None:
        """What was learned stays."""
        return learned


def level_arguments(shapes: Shapes, device: torch.device) -> dict[str, Any]:
    """The arguments by which their deformable attention finds the levels of `shapes` (height, width). Read only.

    Cached: copying them to a GPU again would make the host wait for all the work queued there.
    """
    sizes, starts = (_levels.__wrapped__ if is_traced() else _levels)(shapes, device)
    return {"spatial_shapes": sizes, "spatial_shapes_list": [*shapes], "level_start_index": starts}


@lru_cache(maxsize=256)
def _levels(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # else training could not use what a prediction cached
        sizes = torch.tensor(shapes, dtype=torch.long, device=device)
        return sizes, torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])


def attention_mask(groups: Mapping[str, Queries], like: Tensor) -> Float[Tensor, "batch 1 queries queries"] | None:
    """0 where a query attends to another, -inf where not; None where all attend to all."""
    (first, *others) = groups.values()
    if not others and first.padding is None and first.attention_mask is None:
        return None
    lengths = [group.content.shape[1] for group in groups.values()]
    places = torch.arange(sum(lengths), device=like.device).split(lengths)
    attends = torch.zeros(like.shape[0], sum(lengths), sum(lengths), dtype=torch.bool, device=like.device)
    for rows, attention in zip(places, attention_of(groups), strict=True):
        columns = torch.cat([places[index] for index in attention.keys])
        visible = torch.ones(like.shape[0], len(rows), len(columns), dtype=torch.bool, device=like.device)
        if attention.key_padding_mask is not None:
            visible &= ~attention.key_padding_mask[:, None]
        if attention.attn_mask is not None:
            visible &= ~attention.attn_mask
        attends[:, rows[:, None], columns] = visible
    mask = torch.zeros(attends.shape, dtype=torch.float32, device=like.device).masked_fill(~attends, -torch.inf)
    return mask[:, None]


def split_groups(
    groups: Mapping[str, Queries], logits: Tensor, boxes: Tensor, contents: Tensor
) -> dict[str, Predictions]:
    """The predictions of each group, from [layers, batch, queries of all groups, ...]."""
    lengths = [group.content.shape[1] for group in groups.values()]
    parts = (values.split(lengths, dim=2) for values in (logits.float(), boxes.float(), contents))
    return {name: Predictions(*each) for name, *each in zip(groups, *parts, strict=True)}
