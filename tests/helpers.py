"""What several test rooms share that is no fixture."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.nested import merged
from oddetr.data.dataset import ClassTable
from oddetr.distillation import DistillationTask
from oddetr.models.families.build import DetectorConfig, build_detector
from oddetr.training.config import TrainConfig
from oddetr.training.safety.nonfinite import Findings, NonFiniteStep, Place
from oddetr.training.safety.replay import save_replay
from tests.models.helpers import small_batch

ONLY_IN_0_1: dict[str, dict[str, Any]] = {
    "matching": {"layers": "same", "box_power": 1.0, "boxes": "both", "carry_by": "token"},
    "prediction": {"confidence_power": 1.0, "min_confidence": 0.0, "divide_by": "objects"},
    "auxiliary": {"apart": False, "pool": "layers", "distinct": False, "anchors": "initial"},
}
"""Fields of the distillation terms that oddetr 0.1 recorded, with their defaults."""


def as_of_0_1(configuration: dict[str, Any]) -> dict[str, Any]:
    """What oddetr 0.1 recorded of the same run, whose teacher chose its queries, and which had no rivals."""
    old = merged(configuration, {"distillation": ONLY_IN_0_1})
    del old["distillation"]["auxiliary"]["rivals"], old["distillation"]["queries"]
    return old


def without_checksums(checkpoint: Path) -> None:
    """Makes a checkpoint's folder what an older oddetr wrote."""
    file = checkpoint / "checkpoint.json"
    content = json.loads(file.read_text())
    for name in ("checksum", "checksums"):
        content.pop(name, None)
    file.write_text(json.dumps(content | {"format": 1}))


def small_replay(folder: Path) -> Path:
    """A replay file of a step of a small detector of two classes, of which nothing was wrong."""
    sizes = {"width": 32, "heads": 4, "ffn_width": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6}
    config = DetectorConfig(backbone="test_efficientnet", pretrained=False, **sizes)
    detector = build_detector(config, 2)
    configuration = TrainConfig(epochs=2).to_json()
    info = CheckpointInfo(
        config, ClassTable(("cat", "dog"), (3, 7)), 64, detector.mean, detector.std, configuration=configuration
    )
    place = Place(step=1, epoch=0, batch=1, process=0, seed=5)
    step = NonFiniteStep(small_batch((2, 0), num_classes=2), place, Findings(parts={"loss": 1.0}))
    return save_replay(folder, DistillationTask(detector, 4), info, "fp32", step)


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """WCAG 2's contrast ratio of two RGB colours, from 1 (equal) to 21 (black on white); text needs 4.5."""
    shares = [np.array(each) / 255 for each in (first, second)]
    linear = [np.where(each <= 0.04045, each / 12.92, ((each + 0.055) / 1.055) ** 2.4) for each in shares]
    low, high = sorted(float(np.dot(each, (0.2126, 0.7152, 0.0722))) for each in linear)
    return (high + 0.05) / (low + 0.05)


def load_script(file: Path) -> ModuleType:
    """The module of a file that belongs to no package."""
    spec = spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
