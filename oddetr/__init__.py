"""oddetr: train DETR-family object detectors.

The verbs, as functions: `train`, `evaluate`, `report`, `predict`, `demo`, `check`, `compare`, `convert`, `export`,
`push`, `replay`. They are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddetr.checkpoints.conversion import convert
    from oddetr.comparison.compare import compare
    from oddetr.data.doctor.check import check
    from oddetr.prediction.onnx import export
    from oddetr.prediction.predict import predict
    from oddetr.prediction.predictor import Predictor, evaluate, push
    from oddetr.reporting.report import report
    from oddetr.training.safety.replay import replay
    from oddetr.verbs import train
    from oddetr.web.page import demo

try:
    __version__ = version("oddetr")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "Predictor",
    "check",
    "compare",
    "convert",
    "demo",
    "evaluate",
    "export",
    "predict",
    "push",
    "replay",
    "report",
    "train",
]

_HOMES = {
    "Predictor": "oddetr.prediction.predictor",
    "check": "oddetr.data.doctor.check",
    "compare": "oddetr.comparison.compare",
    "convert": "oddetr.checkpoints.conversion",
    "demo": "oddetr.web.page",
    "evaluate": "oddetr.prediction.predictor",
    "export": "oddetr.prediction.onnx",
    "report": "oddetr.reporting.report",
    "predict": "oddetr.prediction.predict",
    "push": "oddetr.prediction.predictor",
    "replay": "oddetr.training.safety.replay",
    "train": "oddetr.verbs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oddetr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
