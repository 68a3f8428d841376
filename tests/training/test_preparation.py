import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from rich.console import Console

import oddetr
from oddetr.cli import main
from oddetr.training.config import TrainConfig
from oddetr.training.plan.preparation import prepare
from oddetr.training.run import run
from oddetr.training.trainer import make_trainer, quiet


def prepared(arguments: dict[str, Any]) -> tuple[Any, str]:
    console = Console(file=io.StringIO(), width=300)
    return prepare(TrainConfig(**arguments), console.print, console), console.file.getvalue()


def test_prepare_when_two_runs_begin_together_then_each_has_a_folder_of_its_own(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is prepared before the first has written anything."""
    monkeypatch.chdir(tmp_path)

    first, second = (prepared(tiny | {"out": None})[0].out for _ in range(2))

    assert first != second
    assert first.is_dir()
    assert second.is_dir()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("accelerator", "tpu"),
        ("limit_val_batches", -1),
        ("max_time", "x"),
        ("profiler", "foo"),
        ("overfit_batches", "a"),
        ("benchmark", "x"),
        ("strategy", "foo"),
    ],
)
def test_a_refused_trainer_flag_is_named_before_anything_is_read_or_written(
    flag: str, value: Any, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = tiny | {"data": "nowhere", "out": None, "trainer": tiny["trainer"] | {flag: value}}

    with pytest.raises(ValueError, match=rf"^Lightning refuses .*--trainer.{flag} {value}: .* leave it out"):
        prepared(arguments)

    assert list(tmp_path.iterdir()) == []


def test_trainer_when_there_is_apples_gpu_then_it_is_not_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))

    with quiet():
        trainer = make_trainer(TrainConfig(epochs=1, validate_every=1), ())

    assert trainer.strategy.root_device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_folder_is_named_after_the_last_part_of_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oddetr.training.plan import preparation

    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="cells", model="deformable_detr_tiny")
    object.__setattr__(config, "model", "hf:PekingU/rtdetr_v2_r18vd")

    assert preparation._new_folder(config) == Path("runs/cells-rtdetr_v2_r18vd-1")


def test_prepare_when_the_data_is_built_in_then_says_so(tiny: dict) -> None:
    _, said = prepared(tiny | {"data": "digits"})

    assert "The built-in digit scenes" in said


@pytest.mark.parametrize("of_python", [True, False])
def test_an_argument_that_is_the_default_is_compared_on_resume(
    tiny: dict, of_python: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run(TrainConfig(**tiny | {"epochs": 1, "seed": 3}), Console(quiet=True))

    if of_python:
        with pytest.raises(ValueError, match="seed was 3, now it is 0"):
            oddetr.train(out=tiny["out"], resume=True, seed=0)
    else:
        assert main(["train", "--out", str(tiny["out"]), "--resume", "--seed", "0"]) == 1
        assert "seed was 3, now it is 0" in capsys.readouterr().err


def test_resume_when_init_is_named_by_a_relative_path_then_goes_on(
    tiny: dict, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.parent)
    begun = {name: value for name, value in tiny.items() if name not in ("model", "detector")}
    begun |= {"init": Path(trained.name), "epochs": 1}
    run(TrainConfig(**begun), Console(quiet=True))

    it, said = prepared(begun | {"resume": True})

    assert it.state is not None
    assert "The run is finished" in said


def test_resume_when_the_run_is_finished_then_says_so_and_how_to_train_on(tiny: dict) -> None:
    run(TrainConfig(**tiny | {"epochs": 1}), Console(quiet=True))
    it, said = prepared({"out": tiny["out"], "resume": True, "trainer": tiny["trainer"]})

    assert it.steps_done == 2
    assert f"--init {tiny['out']} --out NEW_FOLDER" in said


def test_configuration_when_a_run_was_resumed_then_it_can_begin_another_one(tiny: dict) -> None:
    for resume in (False, True):
        out = run(TrainConfig(**tiny | {"epochs": 1, "resume": resume}), Console(quiet=True))

    assert json.loads((out / "config.json").read_text())["resume"] is False
    assert json.loads((out / "last" / "checkpoint.json").read_text())["configuration"]["resume"] is False


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_checkpoint_when_written_then_others_may_read_all_of_it(trained: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in (trained / "last").iterdir()}

    assert modes == {(trained / "config.json").stat().st_mode & 0o777}


def test_main_when_stopped_before_there_is_anything_to_tell_then_says_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oddetr.training.plan.preparation.open_training_sources", stopped)

    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 130
    assert "oddetr train: stopped." in capsys.readouterr().err
