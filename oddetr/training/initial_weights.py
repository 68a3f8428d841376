"""Load initial weights: a checkpoint's, a transformers model's, or ImageNet's for the backbone."""

from collections.abc import Sequence
from typing import cast

from oddetr.checkpoints.checkpoint import load_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.backbone import Backbone
from oddetr.models.detector import Detector
from oddetr.models.detector_spec import DetectorSpec
from oddetr.models.transformers.config import load_pretrained
from oddetr.models.transformers.files import configuration_only
from oddetr.training.config import TrainConfig


def load_initial_weights(config: TrainConfig, detector: Detector, spec: DetectorSpec, classes: ClassTable) -> str:
    """Load the weights that a run starts from into `detector`, and return where they came from.

    Raises:
        CheckpointError, OSError, BackboneWeightsError: they cannot be read; ValueError: they do not fit.
    """
    origin = config.init or config.hugging_face
    if config.init:
        source, info = load_checkpoint(config.init)
        names = info.classes.names
    elif config.hugging_face:
        if configuration_only(config.hugging_face):
            return f"random: {config.hugging_face} holds a configuration only"
        source, names = load_pretrained(config.hugging_face)
    elif spec.pretrained:
        backbone = cast(Backbone, detector.backbone)
        file = backbone.load_imagenet(config.backbone_weights)
        return f"the backbone's ({backbone.name}) from {file}, the others random"
    else:
        return "random"
    known = copy_weights(detector, classes.names, source, names)
    return f"from {origin}, with the outputs of {known} of {len(classes)} classes"


def copy_weights(detector: Detector, classes: Sequence[str], source: Detector, source_classes: Sequence[str]) -> int:
    """Copy the weights of `source`; return how many of the detector's classes it has.

    Rows of classes are copied by the class's name, case and outer spaces aside; classes that the source does not have
    keep the detector's own rows.

    Raises:
        ValueError: sizes differ; names the first weights that do not fit.
    """
    known = {name.strip().casefold(): label for label, name in reversed([*enumerate(source_classes)])}
    known |= {name: label for label, name in reversed([*enumerate(source_classes)])}
    labels = [known.get(name, known.get(name.strip().casefold())) for name in classes]
    ours = [label for label, found in enumerate(labels) if found is not None]
    theirs = [found for found in labels if found is not None]
    state, given, class_rows = detector.state_dict(), source.state_dict(), detector.class_rows()
    for name, value in state.items():
        other, first = given.get(name), 1 if name in class_rows else 0
        if other is None or other.shape[first:] != value.shape[first:]:
            found = "nothing" if other is None else tuple(other.shape)
            raise ValueError(
                f"The weights do not fit this detector: {name} is {tuple(value.shape)} here and {found} there. "
                "Leave out the options --detector... that change sizes."
            )
        if name in class_rows:
            state[name] = value.clone()
            state[name][[*ours, *class_rows[name]]] = other[[*theirs, *class_rows[name]]]
        else:
            state[name] = other
    detector.load_state_dict(state)
    return len(ours)
