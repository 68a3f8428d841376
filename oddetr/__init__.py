"""Train DETR-family object detectors.

`__all__` is the public interface: the verbs of the command line as functions, and the classes that they take and give.
It keeps its meaning between versions. All else, in modules below, may change in any version.

Names are loaded when first used, so importing the package is cheap and brings no torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddetr.checkpoints.conversion import convert as convert
    from oddetr.comparison.compare import compare as compare
    from oddetr.data.dataset import ClassTable as ClassTable
    from oddetr.data.doctor.check import check as check
    from oddetr.data.images import read_image as read_image
    from oddetr.distillation import DistillationConfig as DistillationConfig
    from oddetr.distillation import DistillationTask as DistillationTask
    from oddetr.evaluation.detections import Detections as Detections
    from oddetr.models.families.build import DetectorConfig as DetectorConfig
    from oddetr.models.families.build import build_detector as build_detector
    from oddetr.prediction.onnx import export as export
    from oddetr.prediction.predict import predict as predict
    from oddetr.prediction.predictor import Predictor as Predictor
    from oddetr.prediction.predictor import evaluate as evaluate
    from oddetr.prediction.predictor import push as push
    from oddetr.reporting.augmented import augment as augment
    from oddetr.reporting.report import report as report
    from oddetr.structures import Batch as Batch
    from oddetr.structures import GroundTruth as GroundTruth
    from oddetr.training.config import TrainConfig as TrainConfig
    from oddetr.training.safety.replay import replay as replay
    from oddetr.verbs import train as train
    from oddetr.web.page import demo as demo

try:
    __version__ = version("oddetr")
except PackageNotFoundError:
    __version__ = "0+unknown"

_MODULES = {
    "Batch": "structures",
    "ClassTable": "data.dataset",
    "Detections": "evaluation.detections",
    "DetectorConfig": "models.families.build",
    "DistillationConfig": "distillation",
    "DistillationTask": "distillation",
    "GroundTruth": "structures",
    "Predictor": "prediction.predictor",
    "TrainConfig": "training.config",
    "augment": "reporting.augmented",
    "build_detector": "models.families.build",
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
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'oddetr' has no attribute {name!r}")
    return getattr(import_module(f"oddetr.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
