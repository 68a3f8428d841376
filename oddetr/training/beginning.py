"""Load initial weights: a checkpoint's, a transformers model's, or ImageNet's for the backbone."""

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from oddetr.checkpoints.checkpoint import load_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.backbone import Backbone
from oddetr.models.detector import Detector
from oddetr.models.families.presets import DetectorConfig
from oddetr.models.transformers.config import HuggingFaceConfig, configuration_only, load_pretrained
from oddetr.training.config import TrainConfig

_OUTPUTS = re.compile(r"(^|\.)(heads\.\d+\.classes|head\.classes|class_embed(\.\d+)?|enc_score_head)\.(weight|bias)$")
_LABELS = re.compile(r"(denoising\.labels|denoising_class_embed)\.weight$")
"""Weights with a row per class: outputs, and denoising labels, whose last row is no class."""


def begin(
    config: TrainConfig, detector: Detector, made_of: DetectorConfig | HuggingFaceConfig, classes: ClassTable
) -> str:
    """Load initial weights into `detector` and return a description of their source.

    Raises:
        CheckpointError, OSError, BackboneWeightsError: they cannot be read; ValueError: they do not fit.
    """
    if config.init:
        source, info = load_checkpoint(config.init)
        known = take_weights(detector, classes.names, source, info.classes.names, made_of)
        return f"from {config.init}, with the outputs of {known} of {len(classes)} classes"
    if config.hugging_face and configuration_only(config.hugging_face):
        return f"random: {config.hugging_face} holds a configuration only"
    if config.hugging_face:
        source, names = load_pretrained(config.hugging_face)
        known = take_weights(detector, classes.names, source, names, made_of)
        return f"from {config.hugging_face}, with the outputs of {known} of {len(classes)} classes"
    if isinstance(made_of, DetectorConfig) and made_of.pretrained:
        backbone = cast(Backbone, detector.backbone)
        origin = backbone.load_imagenet(config.backbone_weights)
        return f"the backbone's ({backbone.name}) from {origin}, the others random"
    return "random"


def take_weights(
    detector: Detector,
    classes: Sequence[str],
    source: Detector,
    source_classes: Sequence[str],
    made_of: DetectorConfig | HuggingFaceConfig,
) -> int:
    """Copy the weights of `source` into `detector`; return how many classes have the same name in both.

    Rows of classes are copied by the class's name; classes that the source does not have keep the detector's own rows.

    Raises:
        ValueError: sizes differ; names the first weights that do not fit.
    """
    known = {name: label for label, name in enumerate(source_classes)}
    labels = [(mine, known[name]) for mine, name in enumerate(classes) if name in known]
    mine, theirs = (torch.tensor([pair[side] for pair in labels], dtype=torch.int64) for side in (0, 1))
    state, given = detector.state_dict(), source.state_dict()
    ranking = _ranking_output(made_of)
    for name, value in state.items():
        other = given.get(name)
        if other is not None and _OUTPUTS.search(name):
            state[name] = _with_rows(value, other, mine, theirs, [0] if ranking and ranking in name else [])
        elif other is not None and _LABELS.search(name):
            state[name] = _with_rows(value, other, mine, theirs, [-1])
        elif other is None or other.shape != value.shape:
            found = "nothing" if other is None else tuple(other.shape)
            raise ValueError(
                f"The weights do not fit this detector: {name} is {tuple(value.shape)} here and {found} there. "
                "Leave out the options --detector... that change sizes."
            )
        else:
            state[name] = other
    detector.load_state_dict(state)
    return len(labels)


def _ranking_output(made_of: DetectorConfig | HuggingFaceConfig) -> str | None:
    """Part of the names of the encoder's class outputs if their first row ranks proposals and is no class."""
    if isinstance(made_of, HuggingFaceConfig):
        return f"class_embed.{made_of.content['decoder_layers']}." if made_of.class_agnostic else None
    return "query_source.head." if made_of.variant == "two_stage" else None


def _with_rows(value: Tensor, source: Tensor, mine: Tensor, theirs: Tensor, same: list[int]) -> Tensor:
    value = value.clone()
    value[mine] = source[theirs]
    for row in same:
        value[row] = source[row]
    return value
