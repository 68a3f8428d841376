import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import oddetr
from oddetr.checkpoints.checkpoint import CheckpointError, load_checkpoint
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig
from oddetr.training.config import TrainConfig
from oddetr.training.run import run
from oddetr.training.safety.resume import differences, find_state, resumed, steps_done
from tests.helpers import as_of_0_1, without_checksums
from tests.training.helpers import quiet


@pytest.fixture
def two(trained: Path, tmp_path: Path) -> Path:
    """A run with `last` and the one before, `best`, and all that belongs to it."""
    shutil.copytree(trained, tmp_path / "two")
    shutil.copytree(trained / "last", tmp_path / "two" / "last.old", dirs_exist_ok=True)
    return tmp_path / "two"


def harm(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "flipped":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    else:
        file.write_bytes(content[: {"cut": len(content) - 7, "empty": 0}[how]])


def fail_reading(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    """The disk fails where these files lie."""
    opened = Path.open

    def failing(file: Path, *arguments: Any, **keywords: Any) -> Any:
        if file in files:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return opened(file, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", failing)


def continued(out: Path, say: Any = pytest.fail) -> tuple[TrainConfig, Path | None]:
    return resumed(TrainConfig(out=out, resume=True), out, say)


def test_a_whole_last_new_of_another_run_is_never_overwritten(two: Path) -> None:
    """A whole `last.new` can be resumed, and is refused like a `last`; a torn one is nothing."""
    for name in ("last.old", "best"):
        shutil.rmtree(two / name)
    (two / "last").rename(two / "last.new")
    other = TrainConfig(out=two, seed=5, epochs=7)
    with pytest.raises(FileExistsError, match="holds a run already"):
        resumed(other, two, pytest.fail)
    assert continued(two, print)[1] == two / "last.new" / "resume.ckpt"
    harm(two / "last.new" / "resume.ckpt", "cut")
    assert resumed(other, two, pytest.fail) == (other, None)
    assert find_state(two, pytest.fail) is None


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("model.safetensors", "cut"),
        ("student.safetensors", "missing"),
        ("checkpoint.json", "empty"),
        ("resume.ckpt", "flipped"),
        ("resume.ckpt", "unreadable"),
    ],
)
def test_resume_uses_last_old_when_last_is_damaged(
    two: Path, file: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_state(two, pytest.fail) == two / "last" / "resume.ckpt"
    if how == "unreadable":
        fail_reading(monkeypatch, two / "last" / file)
    else:
        harm(two / "last" / file, how)
    messages: list[str] = []
    config, state = continued(two, messages.append)
    assert state == two / "last.old" / "resume.ckpt"
    assert config.image_size == 96
    (message,) = messages
    damage = {"missing": "missing", "unreadable": "cannot be read: Input/output error"}.get(how, "damaged")
    assert message.startswith(f"The checkpoint {two}/last cannot be used: {file} ")
    assert damage in message
    assert message.endswith(f"The run goes on from {two / 'last.old'}, the newest checkpoint that is whole.")


def test_resume_says_what_is_left_when_all_checkpoints_are_damaged(two: Path) -> None:
    harm(two / "last" / "resume.ckpt", "flipped")
    harm(two / "last.old" / "student.safetensors", "empty")
    words = (
        r"last cannot be used: resume\.ckpt is damaged.*last\.old cannot be used: student\.safetensors is damaged.*"
        r"Start a new run with the weights of its best, which is whole: --init .*best\."
    )
    with pytest.raises(CheckpointError, match=words):
        find_state(two, print)
    harm(two / "best" / "model.safetensors", "empty")
    with pytest.raises(CheckpointError, match=r"Start a new run\.$"):
        find_state(two, print)


def test_a_damaged_last_is_replaced_and_kept_aside(two: Path) -> None:
    """A finished run, which has nothing left to train."""
    harm(two / "last" / "resume.ckpt", "cut")
    console = quiet()
    run(TrainConfig(out=two, resume=True, trainer={"accelerator": "cpu"}), console)
    assert "The run goes on from" in console.file.getvalue()
    assert find_state(two, pytest.fail) == two / "last" / "resume.ckpt"
    assert (two / "last.damaged" / "resume.ckpt").is_file()


def test_a_run_of_oddetr_0_1_is_resumed_without_rivals(two: Path) -> None:
    """Its checkpoints have no checksums; it may have named its logger by a switch."""
    whole, _ = continued(two)
    file = two / "last" / "checkpoint.json"
    content = json.loads(file.read_text())
    old = as_of_0_1(content["configuration"]) | {"tensorboard": True}
    del old["loggers"]
    file.write_text(json.dumps(content | {"configuration": old}))
    without_checksums(two / "last")
    load_checkpoint(two / "last", "student")
    plain = DistillationConfig(queries="teacher", auxiliary=AuxiliaryConfig(rivals=0))
    expected = replace(whole, distillation=plain, loggers=("tensorboard",))
    assert continued(two) == (expected, two / "last" / "resume.ckpt")
    assert resumed(TrainConfig(out=two, resume=True, loggers=("mlflow",)), two, print)[0].loggers == ("mlflow",)
    assert differences(old, expected.to_json()) == []
    given = replace(plain, auxiliary=AuxiliaryConfig(rivals=2))
    with pytest.raises(ValueError, match=r"other settings: distillation\.auxiliary\.rivals was 0, now it is 2\. Res"):
        resumed(TrainConfig(out=two, resume=True, distillation=given), two, pytest.fail)
    harm(two / "last" / "resume.ckpt", "cut")
    assert find_state(two, print) == two / "last.old" / "resume.ckpt"


def test_a_run_that_saved_nothing_starts_again_with_its_configuration(two: Path) -> None:
    """By the command that is printed, which names neither the data nor the detector."""
    whole, _ = continued(two)
    (two / "last").rename(two / "last.new")
    (two / "last.new" / "checkpoint.json").unlink()
    shutil.rmtree(two / "last.old")
    shutil.rmtree(two / "best")
    messages: list[str] = []
    assert continued(two, messages.append) == (whole, None)
    assert whole.data != "digits"
    assert "starting again" in messages[0]
    given = TrainConfig(out=two, resume=True, epochs=7)
    assert resumed(given, two, pytest.fail) == (given, None)


def test_evaluate_names_the_damaged_file_and_the_checkpoint_to_use(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_reading(patch, two / "best" / "model.safetensors", two / "last" / "student.safetensors")
        words = r"best cannot be read: model\.safetensors cannot be read: Input/output error\. Use .*two/last\.old, wh"
        with pytest.raises(CheckpointError, match=words):
            oddetr.evaluate(two)
    harm(two / "best" / "model.safetensors", "flipped")
    load_checkpoint(two, "student")
    for name in ("best", "last", "last.old"):
        harm(two / name / "checkpoint.json", "missing")
    with pytest.raises(CheckpointError, match="Copy it again from its source, or train again"):
        oddetr.evaluate(two)


def test_the_state_is_written_without_temporary_files(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own writer needs them: a full folder would end the run, and a kill leave a file behind."""
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("a temporary file was made"))
    run(TrainConfig(**tiny | {"epochs": 1}), quiet())
    assert steps_done(tiny["out"] / "last" / "resume.ckpt") == 2
    assert torch.load(tiny["out"] / "last" / "resume.ckpt", weights_only=True)["epoch"] == 0
