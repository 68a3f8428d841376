"""Trainings in processes of their own, which are killed from outside."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.preload"])


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `function` in a process of its own."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Wait for the end, and return the exit code; a signal's number is negative."""
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("the process did not end")
    return process.exitcode


def wait(until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.01)


def train(arguments: dict[str, Any], journal: Path, slowly: float) -> None:
    """Train, and save after every step. The journal tells of each step and save; a sync takes `slowly` seconds more."""
    from oddetr.training import saving as recorder
    from oddetr.training.config import TrainConfig
    from oddetr.training.run import run

    stream = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    save, step, fsync = recorder.Recorder._save, recorder.Recorder.on_train_batch_end, os.fsync

    def journaled_step(self: Any, trainer: Any, *rest: Any) -> None:
        os.write(stream, f"step {trainer.global_step}\n".encode())
        step(self, trainer, *rest)

    def journaled_save(self: Any, trainer: Any, *rest: Any) -> None:
        os.write(stream, f"saving {trainer.global_step}\n".encode())
        save(self, trainer, *rest)
        os.write(stream, f"saved {trainer.global_step}\n".encode())

    def slow_fsync(handle: int) -> None:
        time.sleep(slowly)
        fsync(handle)

    recorder.SAVE_EVERY, os.fsync = 0.0, slow_fsync
    recorder.Recorder._save, recorder.Recorder.on_train_batch_end = journaled_save, journaled_step
    with journal.with_suffix(".log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        run(TrainConfig.from_plain(arguments))


def command(words: list[str], log: Path, save: int, then: Callable[..., None], *arguments: Any) -> None:
    """`oddetr WORDS` in a process group of its own, saving after every step; `then` is called after save number `save`.

    What this process and its loading processes print goes to `log`; the exit code is the command's.
    """
    from oddetr.cli import main
    from oddetr.training import saving as recorder

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


def fill_disk(run: Path) -> None:
    """The next state goes where there is no room."""
    from oddetr.training import trainer

    trainer.open_new = lambda file: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")


def list_children(file: Path) -> None:
    """Write the numbers of this process's children."""
    file.with_suffix(".new").write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
    file.with_suffix(".new").rename(file)


def running(number: int) -> bool:
    """Whether there is such a process, and it is not dead."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
