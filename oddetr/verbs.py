"""Verbs that join rooms: the functions that `import oddetr` gives and no single room has."""

import inspect
from pathlib import Path
from typing import Any

from oddetr.common.nested import flat
from oddetr.reporting.report import report
from oddetr.training.config import TrainConfig
from oddetr.training.run import run


def train(**arguments: Any) -> Path:
    """Trains a detector and returns the run's folder. The arguments are the fields of `TrainConfig`.

        import oddetr
        run = oddetr.train(data="cells", model="deformable_detr_refine_tiny", epochs=50)

    Raises:
        ValueError: a field that is unknown or out of range.
        DataError: the data set has errors.
        FileExistsError: the folder holds a run already and `resume` is off.
        BackboneWeightsError: the backbone's ImageNet weights cannot be had.
        FloatingPointError: the training has diverged; names the step, the images and what of the loss or the gradient.
    """
    return run(TrainConfig.from_plain(arguments), given=frozenset(flat(arguments)), report=report)


train.__signature__ = inspect.signature(TrainConfig)  # pyright: ignore[reportFunctionMemberAccess]
