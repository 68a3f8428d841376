"""Runs jobs, some at a time, each in a process of its own, and shows how far they are."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oddetr.comparison.job import BUSY
from oddetr.comparison.records import LOG, RESULT, Job, RunResult
from oddetr.training.config import chosen
from oddetr.training.records.log import read_events
from oddetr.training.records.progress import clock

_POLL = 0.5
"""Seconds between two looks at the processes."""
_PATIENCE = 10
"""Seconds that a process has to end before it is killed."""
_LAST_LINES = 12


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        code: the process's exit code.
        lines: the last that it wrote.
        log: the file with all of them.
    """

    job: Job
    code: int
    lines: tuple[str, ...]
    log: Path


@dataclass
class _Process:
    """A job that runs; `log_start` is where, in bytes, its own part of the log begins."""

    job: Job
    process: subprocess.Popen[bytes]
    log_start: int

    @classmethod
    def start(cls, job: Job) -> "_Process":
        file = job.write()
        threads = str(job.threads)
        environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        with (job.folder / LOG).open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}: {job.name}, {threads} threads\n".encode())
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "oddetr.comparison.job", str(file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        return cls(job, process, start)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self) -> Failure | None:
        """Why it failed; None where it left a result."""
        if self.process.returncode == 0 and (self.job.folder / RESULT).is_file():
            return None
        file, code = self.job.folder / LOG, self.process.returncode
        lines = file.read_bytes()[self.log_start :].decode(errors="replace").splitlines()[-_LAST_LINES:]
        if code == BUSY:
            lines = ["Another process is training this run. Let it end, or give another folder by --out."]
        return Failure(self.job, code, tuple(lines), file)

    def close_input(self) -> None:
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        stdin.close()

    def stop(self) -> None:
        """Lets it end, which it does when its input is closed."""
        self.close_input()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ComparisonProgress:
    """How far all jobs of a comparison are: a bar on a terminal, and a line for each that ends.

    Args:
        jobs: those to run.
        finished: how many were finished before.
        images: training images of an epoch.
    """

    def __init__(self, jobs: Sequence[Job], finished: int, images: int, console: Console) -> None:
        self.console, self.images = console, images
        self.ended, self.total = finished, finished + len(jobs)
        self.parts = {job.name: self._part(job) for job in jobs}
        self.weights = {job.name: chosen(job.config.epochs) for job in jobs}
        self.begin, self.before = time.monotonic(), self.done()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.line = self.bar.add_task("", total=1.0, left="")

    def show(self, running: Sequence[Job]) -> None:
        """Reads how far the running jobs are."""
        self.parts |= {job.name: self._part(job) for job in running}
        names = ", ".join(job.name for job in running)
        self.bar.update(
            self.line, completed=self.done(), description=f"{self._count()}: {names}", left=f"left {self._left()}"
        )

    def end(self, job: Job, failure: Failure | None) -> None:
        """Says how a job ended."""
        self.parts[job.name] = 1.0
        self.ended += failure is None
        text = _failure_text(failure) if failure else _result_text(job)
        style = "red" if failure else None
        self.console.print(
            f"{text}   {self._count()}, left {self._left()}", style=style, highlight=False, soft_wrap=True
        )

    def _count(self) -> str:
        return f"{self.ended} of {self.total} runs"

    def done(self) -> float:
        """How much of all jobs is done, in [0, 1], by epochs."""
        return sum(part * self.weights[name] for name, part in self.parts.items()) / max(1, sum(self.weights.values()))

    def _left(self) -> str:
        done = self.done()
        if done <= self.before:
            return "-"
        return clock((time.monotonic() - self.begin) * (1 - done) / (done - self.before))

    def _part(self, job: Job) -> float:
        """How much of the run is done, in [0, 1]; steps of an epoch are counted once the first one is over."""
        events = read_events(job.folder)
        if not events:
            return 0.0
        epoch = next((event for event in reversed(events) if event["kind"] == "epoch"), None)
        estimate = -(-self.images // (chosen(job.config.batch_size) * job.config.accumulate))
        steps = epoch["step"] / epoch["epoch"] if epoch else estimate
        return min(1.0, events[-1]["step"] / max(1.0, steps * chosen(job.config.epochs)))


def run_jobs(jobs: Sequence[Job], at_once: int, finished: int, images: int, console: Console) -> list[Failure]:
    """Runs the jobs in their order, `at_once` at a time; one that fails does not stop the others.

    However this ends, no process is left running.

    Args:
        jobs: runs that are not finished; those that were begun go on.
        at_once: at least 1.
        finished: runs of the comparison that are finished already.
        images: training images of an epoch.
        console: where progress goes.
    """
    waiting, running, failures = [*jobs], list[_Process](), list[Failure]()
    progress = ComparisonProgress(jobs, finished, images, console)
    try:
        with progress.bar:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Process.start(waiting.pop(0)))
                progress.show([process.job for process in running])
                time.sleep(_POLL)
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    process.close_input()
                    failure = process.failure()
                    failures += [failure] if failure else []
                    progress.end(process.job, failure)
    finally:
        for process in running:
            process.close_input()
        for process in running:
            process.stop()
    return failures


def _result_text(job: Job) -> str:
    result: RunResult | None = job.result()
    assert result is not None
    scores = ", ".join(f"{name} AP {_number(result.scores[name]['AP'])}" for name in ("teacher", "student"))
    return f"{job.name}: {scores} on {job.split}, {result.minutes:.1f} minutes"


def _failure_text(failure: Failure) -> str:
    lines = "".join(f"\n    {line}" for line in failure.lines)
    return f"{failure.job.name} failed with exit code {failure.code}; its last lines, of {failure.log}:{lines}\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
