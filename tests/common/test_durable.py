import errno
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from oddetr.checkpoints import checkpoint
from oddetr.checkpoints.checkpoint import CheckpointInfo, damage, read_info, save_checkpoint, save_of_run
from oddetr.common.durable import WriteError, checksum, fresh, write_file, writing
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import Detector
from oddetr.models.families.presets import DetectorConfig
from oddetr.structures import Weights
from oddetr.training.safety.resume import find_state, restore, steps_done


class Killed(BaseException):
    """Ends everything, as SIGKILL does."""


class Operations:
    """Counts what is done to files, and ends it all before number `last`; `torn`: with half of what that syncs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int, torn: bool = False) -> None:
        self.last, self.torn, self.done, self.torn_one = last, torn, 0, False
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        for name in ("save_model", "checksum"):
            monkeypatch.setattr(checkpoint, name, self.counted(getattr(checkpoint, name)))
        fsync = os.fsync

        def counted_fsync(handle: int) -> None:
            if self.torn and self.done + 1 == self.last:
                try:
                    os.ftruncate(handle, os.fstat(handle).st_size // 2)
                    self.torn_one = True
                except OSError:
                    pass
            self.counted(fsync)(handle)

        monkeypatch.setattr(os, "fsync", counted_fsync)

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **keywords: Any) -> Any:
            self.done += 1
            if self.done == self.last:
                raise Killed
            return function(*arguments, **keywords)

        return counting


def made(step: int) -> tuple[dict[Weights, Detector], CheckpointInfo]:
    """What a checkpoint is of, with weights that tell the step."""
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, float(step))
    detector = Mock(spec=Detector, saved=layer)
    info = CheckpointInfo(DetectorConfig(), ClassTable(("a",), (1,)), 64, (0.5,) * 3, (0.5,) * 3, epoch=step)
    return {"teacher": detector, "student": detector}, info


def save(run: Path, step: int) -> None:
    """Writes `last`."""
    torch.save({"global_step": step}, run / "resume.ckpt")
    save_of_run(run / "last", *made(step), run / "resume.ckpt")


@pytest.mark.parametrize("torn", [False, True])
def test_save_when_killed_before_any_operation_then_a_whole_checkpoint_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """Two have been saved; the third is cut off. The second is found, or the third; after it a fourth is saved."""
    found, torn_ones = [], 0
    for last in range(1, 100):
        run = tmp_path / str(last)
        run.mkdir()
        save(run, 1)
        save(run, 2)
        with monkeypatch.context() as patch:
            operations = Operations(patch, last, torn)
            try:
                save(run, 3)
                break
            except Killed:
                torn_ones += operations.torn_one
        state = find_state(run, lambda words: None)
        assert state is not None
        found.append(steps_done(state))
        restore(state.parent, run / "last")
        assert damage(run / "last") is None
        save(run, 4)
        assert find_state(run, print) == run / "last" / "resume.ckpt"
        assert steps_done(run / "last" / "resume.ckpt") == 4
    assert found == sorted(found)
    assert {*found} == {2, 3}
    assert len(found) > 15
    assert torn_ones == (4 if torn else 0)


def test_save_when_the_last_was_damaged_unnoticed_and_it_is_killed_then_a_whole_checkpoint_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for last in range(1, 100):
        run = tmp_path / str(last)
        run.mkdir()
        save(run, 1)
        save(run, 2)
        (run / "last" / "model.safetensors").write_bytes(b"")
        with monkeypatch.context() as patch:
            Operations(patch, last)
            try:
                save(run, 3)
                break
            except Killed:
                pass
        state = find_state(run, lambda words: None)
        assert state is not None
        assert steps_done(state) in (1, 3)
    assert last > 15


def test_damage_when_any_file_is_cut_emptied_removed_or_one_bit_is_turned_then_names_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    dice = random.Random(3)
    for file in sorted((tmp_path / "last").iterdir()):
        content = file.read_bytes()
        broken = [b"", content[:-1], content[: len(content) // 2]]
        for _ in range(60):
            turned = bytearray(content)
            turned[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            broken.append(bytes(turned))
        for wrong in broken:
            file.write_bytes(wrong)
            how = damage(tmp_path / "last")
            assert how is not None
            assert how.startswith(file.name)
        file.unlink()
        assert damage(tmp_path / "last") == f"{file.name} is missing"
        file.write_bytes(content)
        assert damage(tmp_path / "last") is None


def test_checksum_when_compared_with_sha256sums_then_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_file_when_its_writing_is_cut_off_then_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, found = tmp_path / "events", []
    for last in range(1, 10):
        file.write_text("old")
        with monkeypatch.context() as patch:
            Operations(patch, last, torn=True)
            try:
                write_file(file, "new and longer")
                break
            except Killed:
                found.append(file.read_text())
    assert found == ["old", "old", "old", "new and longer"]


@pytest.mark.parametrize("write", [lambda file: write_file(file, "new"), lambda file: fresh(file).close()])
def test_file_when_links_stand_in_its_place_then_what_they_lead_to_stays(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("file", "file.new"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "file")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_file_when_it_cannot_be_written_then_the_old_one_stays_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "file", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_checkpoint_when_saved_then_folders_beside_it_and_other_files_in_it_stay(tmp_path: Path) -> None:
    """A converted one, say; only a run's `last` has a `last.new` and a `last.old`."""
    mine = [tmp_path / folder / "mine.txt" for folder in ("detr", "detr.new", "detr.old")]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    for step in (1, 2):
        save_checkpoint(tmp_path / "detr", *made(step))
        assert damage(tmp_path / "detr") is None
    assert read_info(tmp_path / "detr").epoch == 2
    assert all(file.read_text() == "mine" for file in mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detr", "detr.new", "detr.old"]
    left = ["checkpoint.json", "mine.txt", "model.safetensors", "student.safetensors"]
    assert sorted(path.name for path in (tmp_path / "detr").iterdir()) == left


def test_checkpoint_when_its_saving_fails_then_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "detr", *made(1))
    monkeypatch.setattr(checkpoint, "checksum", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "detr", *made(2))
    monkeypatch.undo()
    assert damage(tmp_path / "detr") is None
    assert read_info(tmp_path / "detr").epoch == 1
    left = ["checkpoint.json", "model.safetensors", "student.safetensors"]
    assert sorted(path.name for path in (tmp_path / "detr").iterdir()) == left


@pytest.mark.parametrize("name", ["/etc/hostname", "../best/model.safetensors", "README.md", "x" * 5000])
def test_damage_when_checksums_name_anything_but_a_checkpoints_files_then_nothing_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_checkpoint(tmp_path, *made(1))
    content = json.loads((tmp_path / "checkpoint.json").read_text())
    del content["checksum"]
    content["checksums"][name] = ""
    content["checksum"] = checkpoint._own_checksum(content)
    (tmp_path / "checkpoint.json").write_text(json.dumps(content))
    monkeypatch.setattr(checkpoint, "checksum", lambda file: pytest.fail(f"{file} was read"))
    how = damage(tmp_path)
    assert how is not None
    assert how.startswith(f"checkpoint.json is damaged: its checksums name '{name[:5]}")
    assert how.endswith("which is no file of a checkpoint")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device. [0-9,]+ MB are free there. Make room on that disk."),
        (errno.EROFS, "Read-only file system. Give another folder, or allow this user to write there."),
        (errno.EIO, "Input/output error. Look after that disk."),
    ],
)
def test_writing_when_it_fails_then_says_where_why_and_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(WriteError, match=f"^{re.escape(str(tmp_path))} cannot be written: {words}$"), writing(tmp_path):
        raise OSError(number, os.strerror(number), "file")
    hidden = RuntimeError("unexpected pos 576 vs 534")
    hidden.__context__ = OSError(number, os.strerror(number))
    with pytest.raises(WriteError, match=words), writing(tmp_path):
        raise hidden
    with pytest.raises(WriteError, match=words), writing(tmp_path):
        raise ValueError(f"Error while serializing: I/O error: ... (os error {number})")
    with pytest.raises(KeyError, match="bug"), writing(tmp_path):
        raise KeyError("bug")


def test_writing_when_the_folder_is_gone_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="The folder is gone"), writing(tmp_path / "gone"):
        (tmp_path / "gone" / "file").write_text("")
