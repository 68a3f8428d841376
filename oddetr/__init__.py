"""oddetr: train DETR-family object detectors.

The verbs, as functions: `train`, `evaluate`, `predict`, `check`, `compare`, `convert`, `export`, `demo`. They are
loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddetr.comparison.compare import compare
    from oddetr.conversion import convert
    from oddetr.data.check import check
    from oddetr.inference import Predictor, evaluate, predict
    from oddetr.onnx import export
    from oddetr.page import demo
    from oddetr.training.run import train

try:
    __version__ = version("oddetr")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = ["Predictor", "check", "compare", "convert", "demo", "evaluate", "export", "predict", "train"]

_HOMES = {
    "Predictor": "oddetr.inference",
    "check": "oddetr.data.check",
    "compare": "oddetr.comparison.compare",
    "convert": "oddetr.conversion",
    "demo": "oddetr.page",
    "evaluate": "oddetr.inference",
    "export": "oddetr.onnx",
    "predict": "oddetr.inference",
    "train": "oddetr.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oddetr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
