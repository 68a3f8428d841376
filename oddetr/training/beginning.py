"""Load initial weights: a checkpoint's, a transformers model's, or ImageNet's for the backbone."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from oddetr.checkpoints.checkpoint import load_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.backbone import Backbone
from oddetr.models.detector import Detector
from oddetr.models.interface import DetectorSpec
from oddetr.models.transformers.config import configuration_only, load_pretrained
from oddetr.training.config import TrainConfig


def begin(config: TrainConfig, detector: Detector, made_of: DetectorSpec, classes: ClassTable) -> str:
    """Loads the weights into `detector` and returns where they came from.

    Raises:
        CheckpointError, OSError, BackboneWeightsError: they cannot be read; ValueError: they do not fit.
    """
    if config.init:
        source, info = load_checkpoint(config.init)
        known = take_weights(detector, classes.names, source, info.classes.names)
        return f"from {config.init}, with the outputs of {known} of {len(classes)} classes"
    if config.hugging_face and configuration_only(config.hugging_face):
        return f"random: {config.hugging_face} holds a configuration only"
    if config.hugging_face:
        source, names = load_pretrained(config.hugging_face)
        known = take_weights(detector, classes.names, source, names)
        return f"from {config.hugging_face}, with the outputs of {known} of {len(classes)} classes"
    if made_of.pretrained:
        backbone = cast(Backbone, detector.backbone)
        origin = backbone.load_imagenet(config.backbone_weights)
        return f"the backbone's ({backbone.name}) from {origin}, the others random"
    return "random"


def take_weights(detector: Detector, classes: Sequence[str], source: Detector, source_classes: Sequence[str]) -> int:
    """Takes over the weights of `source`; returns how many classes it knew by name.

    Rows of classes are copied by the class's name; classes that the source does not have keep the detector's own rows.

    Raises:
        ValueError: sizes differ; names the first weights that do not fit.
    """
    known = {name: label for label, name in enumerate(source_classes)}
    labels = [(mine, known[name]) for mine, name in enumerate(classes) if name in known]
    mine, theirs = (torch.tensor([pair[side] for pair in labels], dtype=torch.int64) for side in (0, 1))
    state, given = detector.state_dict(), source.state_dict()
    class_rows = detector.class_rows()
    for name, value in state.items():
        other = given.get(name)
        if other is not None and name in class_rows:
            state[name] = _with_rows(value, other, mine, theirs, class_rows[name])
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


def _with_rows(value: Tensor, source: Tensor, mine: Tensor, theirs: Tensor, same: Iterable[int]) -> Tensor:
    value = value.clone()
    value[mine] = source[theirs]
    for row in same:
        value[row] = source[row]
    return value
