"""Other people's data, as it came: every set trains, scores and predicts."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import oddetr
from oddetr.training.config import TrainConfig
from oddetr.training.run import run


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("bccd", 3),
        ("coco128", 80),
        pytest.param("cards", 6, marks=pytest.mark.slow),
        pytest.param("tiny_coco", 80, marks=pytest.mark.slow),
    ],
)
def test_a_detector_trains_on_real_data_and_is_scored_and_predicts(
    name: str, classes: int, real_data: Path, tiny: dict
) -> None:
    few = {"accelerator": "cpu", "limit_train_batches": 2, "limit_val_batches": 2}
    arguments = tiny | {"data": str(real_data / name), "epochs": 1, "trainer": few}
    folder = run(TrainConfig(**arguments), Console(file=io.StringIO()))
    metrics = oddetr.evaluate(folder)
    assert len(metrics.per_class) == classes
    pictures = sorted(path for path in (real_data / name).rglob("*") if path.suffix.lower() == ".jpg")[:3]
    report = oddetr.predict(folder, [str(path) for path in pictures], folder / "pictures", threshold=0.01)
    assert len(report.pictures) == 3
    assert report.objects > 0
