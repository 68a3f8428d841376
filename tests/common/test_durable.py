import errno
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from oddetr.checkpoints import checkpoint
from oddetr.checkpoints.checkpoint import CheckpointInfo, damage, read_info, save_checkpoint, save_of_run
from oddetr.common.durable import WriteError, checksum, open_new, write_file, writing
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import Detector
from oddetr.models.families.build import DetectorConfig
from oddetr.structures import Weights
from oddetr.training.safety.resume import find_state, restore, steps_done


class Killed(BaseException):
    """Stands for SIGKILL."""


class Operations:
    """Count file operations, and raise Killed before number `last`; `torn`: half of the synced file is lost then."""

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
    """Arguments of save_checkpoint, with weights equal to the step."""
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, float(step))
    detector = Mock(spec=Detector, saved=layer)
    info = CheckpointInfo(DetectorConfig(), ClassTable(("a",), (1,)), 64, (0.5,) * 3, (0.5,) * 3, epoch=step)
    return {"teacher": detector, "student": detector}, info


def save(run: Path, step: int) -> None:
    """Writes `last`."""
    torch.save({"global_step": step}, run / "resume.ckpt")
    save_of_run(run / "last", *made(step), run / "resume.ckpt")


def interrupted_saves(folder: Path, monkeypatch: pytest.MonkeyPatch, torn: bool, broken: bool) -> Iterator[Path]:
    """Runs with two saves, the third cut off before each of its operations; `broken`: the second was damaged."""
    torn_files = 0
    for last in range(1, 100):
        run = folder / str(last)
        run.mkdir()
        save(run, 1)
        save(run, 2)
        if broken:
            (run / "last" / "model.safetensors").write_bytes(b"")
        with monkeypatch.context() as patch:
            operations = Operations(patch, last, torn)
            try:
                save(run, 3)
                break
            except Killed:
                torn_files += operations.torn_one
        yield run
    assert last > 15
    assert torn_files == (4 if torn else 0)


@pytest.mark.parametrize(("torn", "broken"), [(True, False), (False, True)])
def test_save_when_cut_off_then_a_whole_checkpoint_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool, broken: bool
) -> None:
    found = []
    for run in interrupted_saves(tmp_path, monkeypatch, torn, broken):
        state = find_state(run, lambda words: None)
        assert state is not None
        found.append(steps_done(state))
        restore(state.parent, run / "last")
        assert damage(run / "last") is None
        save(run, 4)
        assert steps_done(find_state(run, print)) == 4
    assert found == sorted(found)
    assert {*found} == {1 if broken else 2, 3}


def test_damage_names_the_file_that_is_cut_removed_or_has_one_wrong_bit(tmp_path: Path) -> None:
    save(tmp_path, 1)
    dice = random.Random(3)
    for file in sorted((tmp_path / "last").iterdir()):
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        for wrong in (b"", content[:-1], bytes(flipped)):
            file.write_bytes(wrong)
            assert (damage(tmp_path / "last") or "").startswith(file.name)
        file.unlink()
        assert damage(tmp_path / "last") == f"{file.name} is missing"
        file.write_bytes(content)
        assert damage(tmp_path / "last") is None
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_file_when_cut_off_then_leaves_the_old_or_the_new_content(
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


@pytest.mark.parametrize("write", [lambda file: write_file(file, "new"), lambda file: open_new(file).close()])
def test_write_when_links_are_in_the_way_then_does_not_follow_them(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("file", "file.new"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "file")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_write_file_when_it_fails_then_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "file", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_save_checkpoint_keeps_other_files_and_after_an_error_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a run's checkpoints own folders FOLDER.new and FOLDER.old."""
    mine = [tmp_path / folder / "mine.txt" for folder in ("detr", "detr.new", "detr.old")]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    for step in (1, 2):
        save_checkpoint(tmp_path / "detr", *made(step))
        assert damage(tmp_path / "detr") is None
    monkeypatch.setattr(checkpoint, "checksum", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "detr", *made(3))
    monkeypatch.undo()
    assert damage(tmp_path / "detr") is None
    assert read_info(tmp_path / "detr").epoch == 2
    assert all(file.read_text() == "mine" for file in mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detr", "detr.new", "detr.old"]
    left = ["checkpoint.json", "mine.txt", "model.safetensors", "student.safetensors"]
    assert sorted(path.name for path in (tmp_path / "detr").iterdir()) == left


def test_damage_reads_no_foreign_file_that_checksums_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, *made(1))
    content = json.loads((tmp_path / "checkpoint.json").read_text())
    del content["checksum"]
    content["checksums"] |= {"/etc/hostname": "", "../best/model.safetensors": "", "x" * 5000: ""}
    content["checksum"] = checkpoint._own_checksum(content)
    (tmp_path / "checkpoint.json").write_text(json.dumps(content))
    read: list[str] = []
    monkeypatch.setattr(checkpoint, "checksum", lambda file: read.append(str(file)) or content["checksums"][file.name])
    assert damage(tmp_path) is None
    assert read == [str(tmp_path / name) for name in ("model.safetensors", "student.safetensors")]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device. [0-9,]+ MB are free there. Make room"),
        (errno.EROFS, "Read-only file system. Give another folder"),
        (errno.EIO, "Input/output error. Check the disk"),
    ],
)
def test_writing_when_it_fails_then_says_where_why_and_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    hidden = RuntimeError("unexpected pos 576 vs 534")
    hidden.__context__ = OSError(number, os.strerror(number))
    in_text = ValueError(f"Error while serializing: I/O error: ... (os error {number})")
    for error in (OSError(number, os.strerror(number), "file"), hidden, in_text):
        where = f"^{re.escape(str(tmp_path))} cannot be written: "
        with pytest.raises(WriteError, match=where + words), writing(tmp_path):
            raise error
    with pytest.raises(KeyError, match="bug"), writing(tmp_path):
        raise KeyError("bug")
    with pytest.raises(WriteError, match="The folder is gone"), writing(tmp_path / "gone"):
        (tmp_path / "gone" / "file").write_text("")
