import errno
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import oddetr
from oddetr.checkpoints.checkpoint import CheckpointError, load_checkpoint
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig
from oddetr.training.config import TrainConfig
from oddetr.training.records.log import RunLog, read_events
from oddetr.training.run import run
from oddetr.training.safety.resume import find_state, resumed, steps_done
from tests.helpers import as_of_0_1, without_checksums


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


@pytest.mark.parametrize("file", ["model.safetensors", "resume.ckpt"])
def test_resume_goes_on_from_last_old_when_last_cannot_be_read(
    two: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    fail_reading(monkeypatch, two / "last" / file)
    told: list[str] = []
    assert find_state(two, told.append) == two / "last.old" / "resume.ckpt"
    assert told[0].startswith(f"The checkpoint {two}/last cannot be used: {file} cannot be read: Input/output error. ")


def test_evaluate_names_the_checkpoint_to_use_when_best_and_last_cannot_be_read(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_reading(monkeypatch, two / "best" / "model.safetensors", two / "last" / "student.safetensors")
    words = (
        r"best cannot be read: model\.safetensors cannot be read: Input/output error\. Use .*two/last\.old, which is"
    )
    with pytest.raises(CheckpointError, match=words):
        oddetr.evaluate(two)


def test_a_whole_last_new_of_another_run_is_never_overwritten(
    two: Path,
) -> None:
    """A whole `last.new` can be gone on with, and is refused like a `last`; a torn one is nothing."""
    for name in ("last.old", "best"):
        shutil.rmtree(two / name)
    (two / "last").rename(two / "last.new")
    other = TrainConfig(out=two, seed=5, epochs=7)
    with pytest.raises(FileExistsError, match="holds a run already"):
        resumed(other, two, pytest.fail)
    _, state = resumed(TrainConfig(out=two, resume=True), two, print)
    assert state == two / "last.new" / "resume.ckpt"
    harm(two / "last.new" / "resume.ckpt", "cut")
    assert resumed(other, two, pytest.fail) == (other, None)
    assert find_state(two, pytest.fail) is None


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("model.safetensors", "cut"),
        ("student.safetensors", "missing"),
        ("checkpoint.json", "empty"),
        ("checkpoint.json", "flipped"),
        ("resume.ckpt", "flipped"),
        ("resume.ckpt", "missing"),
    ],
)
def test_resume_goes_on_from_last_old_when_last_is_damaged(two: Path, file: str, how: str) -> None:
    harm(two / "last" / file, how)
    told: list[str] = []
    config, state = resumed(TrainConfig(out=two, resume=True), two, told.append)
    assert state == two / "last.old" / "resume.ckpt"
    assert config.image_size == 96
    (words,) = told
    damage = "missing" if how == "missing" else "damaged"
    assert words.startswith(f"The checkpoint {two}/last cannot be used: {file} is {damage}")
    assert words.endswith(f"The run goes on from {two / 'last.old'}, the newest checkpoint that is whole.")


def test_resume_when_last_is_whole_then_says_nothing(two: Path) -> None:
    told: list[str] = []
    assert find_state(two, told.append) == two / "last" / "resume.ckpt"
    assert told == []


def test_resume_says_what_is_left_when_all_checkpoints_are_damaged(two: Path) -> None:
    harm(two / "last" / "resume.ckpt", "flipped")
    harm(two / "last.old" / "student.safetensors", "empty")
    words = (
        r"last cannot be used: resume\.ckpt is damaged.*last\.old cannot be used: student\.safetensors is damaged.*"
        r"Begin a new run with the weights of its best, which is whole: --init .*best\."
    )
    with pytest.raises(CheckpointError, match=words):
        find_state(two, print)
    harm(two / "best" / "model.safetensors", "empty")
    with pytest.raises(CheckpointError, match=r"Begin a new run\.$"):
        find_state(two, print)


def test_a_damaged_last_is_replaced_and_kept_aside(two: Path) -> None:
    """A finished run, which has nothing left to train."""
    harm(two / "last" / "resume.ckpt", "cut")
    console = Console(file=io.StringIO(), width=300)
    run(TrainConfig(out=two, resume=True, trainer={"accelerator": "cpu"}), console)
    assert "The run goes on from" in console.file.getvalue()
    assert find_state(two, pytest.fail) == two / "last" / "resume.ckpt"
    assert (two / "last.damaged" / "resume.ckpt").is_file()


def test_resume_when_an_older_oddetr_wrote_the_checkpoint_then_goes_on(two: Path) -> None:
    without_checksums(two / "last")
    assert find_state(two, pytest.fail) == two / "last" / "resume.ckpt"
    load_checkpoint(two / "last", "student")
    harm(two / "last" / "resume.ckpt", "cut")
    assert find_state(two, print) == two / "last.old" / "resume.ckpt"


def test_resume_when_oddetr_0_1_began_the_run_then_goes_on_without_rivals(two: Path) -> None:
    """By the run's own file, and where that is torn by the checkpoint's."""
    whole, _ = resumed(TrainConfig(out=two, resume=True), two, pytest.fail)
    for file, of in ((two / "config.json", None), (two / "last" / "checkpoint.json", "configuration")):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {of: as_of_0_1(content[of])} if of else as_of_0_1(content)))
    without_checksums(two / "last")
    plain = replace(whole, distillation=DistillationConfig(auxiliary=AuxiliaryConfig(rivals=0)))
    assert whole != plain
    assert resumed(TrainConfig(out=two, resume=True), two, pytest.fail) == (plain, two / "last" / "resume.ckpt")
    given = TrainConfig(out=two, resume=True, distillation=DistillationConfig(auxiliary=AuxiliaryConfig(rivals=2)))
    with pytest.raises(ValueError, match=r"begun otherwise: distillation\.auxiliary\.rivals was 0, now it is 2\. Res"):
        resumed(given, two, pytest.fail)
    harm(two / "config.json", "cut")
    assert resumed(TrainConfig(out=two, resume=True), two, print)[0] == plain


def test_resume_reads_the_checkpoints_configuration_when_config_json_is_torn(two: Path) -> None:
    whole, _ = resumed(TrainConfig(out=two, resume=True), two, pytest.fail)
    harm(two / "config.json", "cut")
    told: list[str] = []
    config, state = resumed(TrainConfig(out=two, resume=True), two, told.append)
    assert config == whole
    assert state == two / "last" / "resume.ckpt"
    assert "config.json cannot be read" in told[0]


def test_resume_of_a_run_that_saved_nothing_begins_with_its_configuration(two: Path) -> None:
    """By the command that is printed, which names neither the data nor the detector."""
    whole, _ = resumed(TrainConfig(out=two, resume=True), two, pytest.fail)
    (two / "last").rename(two / "last.new")
    (two / "last.new" / "checkpoint.json").unlink()
    shutil.rmtree(two / "last.old")
    shutil.rmtree(two / "best")
    told: list[str] = []
    config, state = resumed(TrainConfig(out=two, resume=True), two, told.append)
    assert state is None
    assert config == whole
    assert config.data != "digits"
    assert "beginning again" in told[0]
    given = TrainConfig(out=two, resume=True, epochs=7)
    assert resumed(given, two, pytest.fail) == (given, None)


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_evaluate_names_the_damaged_file_and_what_to_use(two: Path, how: str) -> None:
    harm(two / "best" / "model.safetensors", how)
    with pytest.raises(CheckpointError, match=r"best cannot be read: model\.safetensors is .*Use .*two/last, which is"):
        oddetr.evaluate(two)
    harm(two / "last" / "student.safetensors", "flipped")
    with pytest.raises(CheckpointError, match=r"Use .*two/last\.old, which is whole"):
        oddetr.evaluate(two)
    load_checkpoint(two, "student")
    harm(two / "last.old" / "checkpoint.json", "missing")
    with pytest.raises(CheckpointError, match="Copy it again from its source, or train again"):
        oddetr.evaluate(two)


def test_last_is_not_silently_used_instead_of_half_a_best(two: Path) -> None:
    harm(two / "best" / "checkpoint.json", "missing")
    with pytest.raises(CheckpointError, match=r"best cannot be read: checkpoint\.json is missing\. Use .*last"):
        load_checkpoint(two)


def test_records_when_a_line_is_torn_or_damaged_then_the_others_stay(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3, 4)]
    lines[1] = lines[1].replace("t", "\x00", 1)
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode()[:-5] + b"\xff")
    assert [event["step"] for event in read_events(tmp_path)] == [1, 3]
    log = RunLog(tmp_path, steps_done=3)
    log.add({"kind": "train", "step": 5})
    assert [event["step"] for event in read_events(tmp_path)] == [1, 3, 5]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_state_is_written_without_temporary_files(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own way is through there: a full one would end the run, and a kill leave a file behind."""
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("a temporary file was made"))
    run(TrainConfig(**tiny | {"epochs": 1}), Console(file=io.StringIO()))
    assert steps_done(tiny["out"] / "last" / "resume.ckpt") == 2
    assert torch.load(tiny["out"] / "last" / "resume.ckpt", weights_only=True)["epoch"] == 0
