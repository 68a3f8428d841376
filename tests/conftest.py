"""Options, places, and the tiny data set and run (seconds, not minutes) that several test rooms share."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console

if TYPE_CHECKING:
    from oddetr.training.config import TrainConfig

# Triton decides when it is imported; without a GPU its kernels can only be interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Nothing is asked of the Hub, and what this machine has of it in a cache changes no test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HOME", str(Path(tempfile.gettempdir()) / "oddetr_tests_no_hub"))

# Tests assert behaviour, never times: that the machine is busy fails none.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# The package is imported in the fixtures: most rooms' tests need little of it, and importing all of it takes seconds.
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=SHARED / "golden",
        help="folder of reference outputs of the official implementations",
    )


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for one test."""
    from oddetr.models.kernels import compiled

    assert compiled._MOST_THREADS >= 2, "NUMBA_NUM_THREADS allows no second thread: nothing would be tested"

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation scenes, in COCO's layout."""
    from oddetr.data.digits import DigitScenes
    from oddetr.data.writer import write_coco

    folder = tmp_path_factory.mktemp("scenes")
    write_coco(DigitScenes("train", 8), folder, "train")
    write_coco(DigitScenes("val"), folder, "val", count=4)
    write_coco(DigitScenes("test"), folder, "test", count=4)
    return folder


def tiny_arguments(scenes: Path, out: Path) -> dict:
    """Arguments of a run of seconds; dropout is on, so that its randomness is tested too."""
    return {
        "data": str(scenes),
        "model": "deformable_detr_refine_tiny",
        "epochs": 4,
        "image_size": 96,
        "batch_size": 4,
        "workers": 0,
        "out": out,
        "detector": {
            "backbone": "test_efficientnet",
            "pretrained": False,
            "width": 32,
            "heads": 4,
            "ffn_width": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_queries": 12,
            "dropout": 0.1,
        },
        "trainer": {"accelerator": "cpu"},
    }


@pytest.fixture
def tiny(scenes: Path, tmp_path: Path) -> dict:
    return tiny_arguments(scenes, tmp_path / "run")


@pytest.fixture
def config(tiny: dict) -> "TrainConfig":
    from oddetr.training.config import TrainConfig

    return TrainConfig(**tiny)


@pytest.fixture(scope="session")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run of one epoch."""
    from oddetr.training.config import TrainConfig
    from oddetr.training.run import run

    arguments = tiny_arguments(scenes, tmp_path_factory.mktemp("trained") / "run")
    return run(TrainConfig(**arguments | {"epochs": 1}), Console(file=io.StringIO()))


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained`, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "finished"))


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained` as an ONNX file for images of 96 x 160 pixels."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from oddetr.prediction.onnx import TOLERANCE, export

    file = tmp_path_factory.mktemp("exported") / "new" / "model.onnx"
    report = export(trained, file, height=96, width=160)
    assert report.file == file
    assert report.difference <= TOLERANCE
    assert report.inputs == {"images": "uint8 ['batch', 96, 160, 3]", "sizes": "int64 ['batch', 2]"}
    assert list(report.outputs) == ["boxes", "scores", "labels"]
    return file


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run whose scores are above 0, with what it printed (console.txt). After its report
    was written the report failed."""
    from oddetr.distillation.config import DistillationConfig
    from oddetr.reporting.report import report
    from oddetr.training.config import OptimizerConfig, TrainConfig
    from oddetr.training.run import run
    from tests.squares import write_squares

    folder = tmp_path_factory.mktemp("learned")
    write_squares(folder / "data", "train", 16, seed=0)
    write_squares(folder / "data", "val", 8, seed=1)
    arguments = tiny_arguments(folder / "data", folder / "run") | {
        "epochs": 7,
        "image_size": 64,
        "batch_size": 8,
        "validate_every": 2,
        "optimizer": OptimizerConfig(learning_rate=5e-3, backbone_factor=1.0, clip=1.0),
        "distillation": DistillationConfig(horizon=8.0),
    }

    def report_and_fail(out: Path, **options: bool) -> None:
        report(out, **options)
        raise ZeroDivisionError

    console = Console(file=io.StringIO(), width=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oddetr.training.plan.forecast.LEAST", 1)
        run(TrainConfig(**arguments), console, report=report_and_fail)
    (folder / "run" / "console.txt").write_text(console.file.getvalue())
    return folder / "run"
