"""Train DETR-family object detectors.

`__all__` is the public interface: the verbs of the command line as functions, and the classes that they take and give.
It keeps its meaning between versions. All else, in modules below, may change in any version.

Names are loaded when first used, so importing the package is cheap and brings no torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddetr.checkpoints.conversion import convert
    from oddetr.comparison.compare import compare
    from oddetr.data.dataset import ClassTable
    from oddetr.data.doctor.check import check
    from oddetr.data.images import read_image
    from oddetr.distillation import DistillationConfig, DistillationTask
    from oddetr.evaluation.detections import Detections
    from oddetr.models.families.presets import DetectorConfig, build_detector
    from oddetr.prediction.onnx import export
    from oddetr.prediction.predict import predict
    from oddetr.prediction.predictor import Predictor, evaluate, push
    from oddetr.reporting.report import report
    from oddetr.structures import Batch, GroundTruth
    from oddetr.training.config import TrainConfig
    from oddetr.training.safety.replay import replay
    from oddetr.verbs import train
    from oddetr.web.page import demo

try:
    __version__ = version("oddetr")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "Batch",
    "ClassTable",
    "Detections",
    "DetectorConfig",
    "DistillationConfig",
    "DistillationTask",
    "GroundTruth",
    "Predictor",
    "TrainConfig",
    "build_detector",
    "check",
    "compare",
    "convert",
    "demo",
    "evaluate",
    "export",
    "predict",
    "push",
    "read_image",
    "replay",
    "report",
    "train",
]

_MODULES = {
    "Batch": "structures",
    "ClassTable": "data.dataset",
    "Detections": "evaluation.detections",
    "DetectorConfig": "models.families.presets",
    "DistillationConfig": "distillation",
    "DistillationTask": "distillation",
    "GroundTruth": "structures",
    "Predictor": "prediction.predictor",
    "TrainConfig": "training.config",
    "build_detector": "models.families.presets",
    "check": "data.doctor.check",
    "compare": "comparison.compare",
    "convert": "checkpoints.conversion",
    "demo": "web.page",
    "evaluate": "prediction.predictor",
    "export": "prediction.onnx",
    "predict": "prediction.predict",
    "push": "prediction.predictor",
    "read_image": "data.images",
    "replay": "training.safety.replay",
    "report": "reporting.report",
    "train": "verbs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'oddetr' has no attribute {name!r}")
    return getattr(import_module(f"oddetr.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
