"""Beginning a training with the weights of a checkpoint instead of a backbone's alone."""

import re
from pathlib import Path

import torch
from torch import Tensor

from oddetr.checkpoint import load_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import Detector

_OUTPUTS = re.compile(r"^(decoder\.heads\.\d+|query_source\.head)\.classes\.(weight|bias)$")
_LABELS = "denoising.labels.weight"


def begin_with(checkpoint: Path, detector: Detector, classes: ClassTable, class_agnostic: bool) -> int:
    """Loads the teacher's weights of `checkpoint` into `detector`; returns how many classes it knew by name.

    What belongs to a class, its outputs and its denoising label, is carried over by the class's name; classes that the
    checkpoint does not know keep the detector's new weights.

    Args:
        class_agnostic: the encoder's first output means "is an object", whatever the first class is.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        ValueError: the detector has other sizes; names the first weights that do not fit.
    """
    theirs, info = load_checkpoint(checkpoint)
    known = {name: label for label, name in enumerate(info.classes.names)}
    labels = [(mine, known[name]) for mine, name in enumerate(classes.names) if name in known]
    mine, yours = (torch.tensor([pair[side] for pair in labels], dtype=torch.int64) for side in (0, 1))
    state = detector.state_dict()
    given = theirs.state_dict()
    for name, value in state.items():
        source = given.get(name)
        if _OUTPUTS.match(name) and source is not None:
            first = [0] if class_agnostic and name.startswith("query_source.") else []
            state[name] = _with_rows(value, source, mine, yours, first)
        elif name == _LABELS and source is not None:
            state[name] = _with_rows(value, source, mine, yours, [-1])
        elif source is None or source.shape != value.shape:
            found = "nothing" if source is None else tuple(source.shape)
            raise ValueError(
                f"{checkpoint} does not fit this detector: {name} is {tuple(value.shape)} here and {found} there. "
                "Leave out the options --detector... that change sizes."
            )
        else:
            state[name] = source
    detector.load_state_dict(state)
    return len(labels)


def _with_rows(value: Tensor, source: Tensor, mine: Tensor, yours: Tensor, same: list[int]) -> Tensor:
    value = value.clone()
    value[mine] = source[yours]
    for row in same:
        value[row] = source[row]
    return value
