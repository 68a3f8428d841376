"""What happens before a run starts: checks, its folder, and what it prints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy

from oddetr.cli import main
from oddetr.training.config import TrainConfig
from oddetr.training.plan import preparation
from oddetr.training.plan.preparation import other_steps, prepare
from oddetr.training.trainer import make_trainer, quiet
from tests.training import helpers as training_helpers

DOCS = Path(__file__).parents[2] / "docs"


def prepared(arguments: dict[str, Any]) -> tuple[Any, str]:
    """A prepared run, and what it printed."""
    console = training_helpers.quiet()
    return prepare(TrainConfig(**arguments), console.print, console), console.file.getvalue()


def test_each_run_gets_a_folder_of_its_own_named_after_data_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="cells", model="deformable_detr_tiny")
    object.__setattr__(config, "model", "hf:PekingU/rtdetr_v2_r18vd")

    folders = [preparation._new_folder(config) for _ in range(2)]

    assert folders == [Path(f"runs/cells-rtdetr_v2_r18vd-{number}") for number in (1, 2)]
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize(("flag", "value"), [("accelerator", "tpu"), ("devices", "abc"), ("num_nodes", "two")])
def test_a_refused_trainer_flag_is_named_before_anything_is_read_or_written(
    flag: str, value: Any, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = tiny | {"data": "nowhere", "out": None, "trainer": tiny["trainer"] | {flag: value}}

    with pytest.raises(ValueError, match=rf"^Lightning refuses .*--trainer.{flag} {value}: .* leave it out"):
        prepared(arguments)

    assert list(tmp_path.iterdir()) == []


def test_apples_gpu_is_not_taken_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))

    with quiet():
        trainer = make_trainer(TrainConfig(epochs=1, validate_every=1), ())

    assert trainer.strategy.root_device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_processes_wait_for_one_another_as_long_as_the_pages_say() -> None:
    config = TrainConfig(epochs=1, validate_every=1, trainer={"accelerator": "cpu", "devices": 2})

    with quiet():
        strategy = make_trainer(config, ()).strategy

    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout is not None
    minutes = f"{strategy._timeout.total_seconds() / 60:.0f} minutes"
    gpus, reliability = ((DOCS / name).read_text() for name in ("gpus.md", "reliability.md"))
    assert f"the others wait for {minutes}, Lightning's default" in gpus
    assert f"the timeout that Lightning gives it ({minutes};" in reliability


def test_resume_of_a_finished_run_prints_how_to_train_on(finished: Path) -> None:
    run, printed = prepared({"out": finished, "resume": True, "trainer": {"accelerator": "cpu"}})

    assert run.steps_done == 2
    assert "The run is finished" in printed
    assert f"--init {finished} --out NEW_FOLDER" in printed


def test_a_run_that_is_stopped_before_it_starts_prints_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "open_training_sources", stopped)

    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 130
    assert "oddetr train: stopped." in capsys.readouterr().err


def test_another_number_of_steps_in_an_epoch_is_reported_on_resume() -> None:
    assert [other_steps(3, done, 10, 8) for done in (30, 35, 40)] == ["", "", ""]
    assert "An epoch has 5 steps of 16 images now, but the run did 30 in 3 epochs" in other_steps(3, 30, 5, 16)
    assert other_steps(0, 11, 10, 8)
