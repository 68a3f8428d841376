"""Trainings in processes of their own, which are killed, from outside or at a file operation of their own."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.preload"])
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


@dataclass(frozen=True)
class Plan:
    """How a training dies: at a file operation of one of its saves; None of it: it lives.

    Attributes:
        save: the number of the save, from 1; 0 in none.
        operation: before which of its operations, from 1.
        torn: the file that this operation syncs to the disk keeps only its first half.
        slowly: seconds that each sync takes longer.
    """

    save: int = 0
    operation: int = 0
    torn: bool = False
    slowly: float = 0.0


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Begins `function` in a process of its own."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Waits for the end, and returns the exit code; a signal's number is negative."""
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("the process did not end")
    return process.exitcode


def train(arguments: dict[str, Any], journal: Path, plan: Plan) -> None:
    """Trains, and saves after every step. The journal tells of each step and each save, with its file operations."""
    from oddetr.training.config import TrainConfig
    from oddetr.training.records import recorder
    from oddetr.training.run import run

    stream = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    operations = _Operations(plan)
    save, step = recorder.Recorder._save, recorder.Recorder.on_train_batch_end

    def journaled_step(self: Any, trainer: Any, *rest: Any) -> None:
        os.write(stream, f"step {trainer.global_step}\n".encode())
        step(self, trainer, *rest)

    def journaled_save(self: Any, trainer: Any, *rest: Any) -> None:
        os.write(stream, f"saving {trainer.global_step}\n".encode())
        operations.begin()
        save(self, trainer, *rest)
        operations.end()
        os.write(stream, f"saved {trainer.global_step} {' '.join(operations.names)}\n".encode())

    recorder.SAVE_EVERY = 0.0
    recorder.Recorder._save, recorder.Recorder.on_train_batch_end = journaled_save, journaled_step
    with journal.with_suffix(".log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        run(TrainConfig.from_plain(arguments))


def command(words: list[str], log: Path, save: int, then: Callable[..., None], *arguments: Any) -> None:
    """`oddetr WORDS` in a process group of its own, saving after every step; `then` is called after save number `save`.

    What this process and its loading processes print goes to `log`; the exit code is the command's.
    """
    from oddetr.cli import main
    from oddetr.training.records import recorder

    multiprocessing.set_start_method(None, force=True)
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    saved, saves = recorder.Recorder._save, 0

    def counted(*rest: Any) -> None:
        nonlocal saves
        saved(*rest)
        saves += 1
        if saves == save:
            then(*arguments)

    recorder.SAVE_EVERY = 0.0
    recorder.Recorder._save = counted
    sys.exit(main(words))


def forbid_writing(folder: Path) -> None:
    """Takes the permission to write there; from root, too."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0


def fill_disk(run: Path) -> None:
    """The next state goes where there is no room."""
    from oddetr.training.safety import state

    state.open_new = lambda file: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")


def tell_children(file: Path) -> None:
    """Writes the numbers of this process's children."""
    file.with_suffix(".new").write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
    file.with_suffix(".new").rename(file)


def running(number: int) -> bool:
    """Whether there is such a process, and it is not dead."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class _Operations:
    """Counts what a save does to files, and ends the process where the plan says so."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.saves, self.names, self.active = plan, 0, [], False
        from oddetr.checkpoints import checkpoint

        fsync, save_model = os.fsync, checkpoint.save_model

        def counted_fsync(handle: int) -> None:
            name = Path(f"/proc/self/fd/{handle}").readlink()
            self.meet("sync-file" if name.parent.suffix == ".new" else "sync", handle)
            time.sleep(plan.slowly)
            fsync(handle)

        def counted_save_model(*arguments: Any, **keywords: Any) -> None:
            self.meet("weights")
            save_model(*arguments, **keywords)

        os.fsync, checkpoint.save_model = counted_fsync, counted_save_model
        sys.addaudithook(self._hear)

    def begin(self) -> None:
        """A save begins."""
        self.saves, self.names, self.active = self.saves + 1, [], True

    def end(self) -> None:
        """It is done."""
        self.active = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES:
            self.meet(event.removeprefix("os."))
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.meet("open")

    def meet(self, name: str, handle: int = 0) -> None:
        """One more operation."""
        if not self.active:
            return
        self.names.append(name)
        if self.saves == self.plan.save and len(self.names) == self.plan.operation:
            if self.plan.torn:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
