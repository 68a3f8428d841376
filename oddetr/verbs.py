"""`oddetr.train`: a run and its report, which belong to two rooms."""

import inspect
from pathlib import Path
from typing import Any

from rich.console import Console

from oddetr.common.nested import flat
from oddetr.reporting.report import report
from oddetr.training.config import TrainConfig
from oddetr.training.run import run


def train(console: Console | None = None, **arguments: Any) -> Path:
    """Train a detector and return the run's folder. The arguments are the fields of `TrainConfig`.

        import oddetr
        run = oddetr.train(data="cells", model="deformable_detr_refine_tiny", epochs=50)

    Raises:
        ValueError: a field is unknown or out of range.
        DataError: the data set has errors.
        FileExistsError: the folder already holds a run and `resume` is off.
        BackboneWeightsError: the backbone's ImageNet weights are not available.
        FloatingPointError: the training diverged; names the step, the images, and which loss or gradient.
    """
    return run(TrainConfig.from_plain(arguments), console, given=frozenset(flat(arguments)), report=report)


train.__signature__ = inspect.signature(TrainConfig)  # pyright: ignore[reportFunctionMemberAccess]
