"""oddetr: train DETR-family object detectors.

The verbs, as functions: `train`, `evaluate`, `report`, `predict`, `demo`, `check`, `compare`, `convert`, `export`,
`push`, `replay`. They are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddetr.comparison.compare import compare
    from oddetr.conversion import convert
    from oddetr.data.check import check
    from oddetr.inference import Predictor, evaluate
    from oddetr.onnx import export
    from oddetr.prediction.predict import predict
    from oddetr.pretrained import push
    from oddetr.reporting.report import report
    from oddetr.training.replay import replay
    from oddetr.training.run import train
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
    "Predictor": "oddetr.inference",
    "check": "oddetr.data.check",
    "compare": "oddetr.comparison.compare",
    "convert": "oddetr.conversion",
    "demo": "oddetr.web.page",
    "evaluate": "oddetr.inference",
    "export": "oddetr.onnx",
    "report": "oddetr.reporting.report",
    "predict": "oddetr.prediction.predict",
    "push": "oddetr.pretrained",
    "replay": "oddetr.training.replay",
    "train": "oddetr.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oddetr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
