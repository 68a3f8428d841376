"""Run jobs in separate processes, several at a time, and show their progress."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oddetr.common.terminal import print_line
from oddetr.comparison.job import BUSY
from oddetr.comparison.records import LOG, RESULT, Job
from oddetr.training.config import chosen
from oddetr.training.records.log import read_events
from oddetr.training.records.progress import clock

_POLL = 0.5
"""Seconds between two polls of the processes."""
_PATIENCE = 10
"""Seconds that a process has to exit before it is killed."""
_LAST_LINES = 12
"""Lines of a failed run's log to show."""


@dataclass(frozen=True)
class Failure:
    """A run that failed: the exit code of its process, the last lines of its output, and the file with all of it."""

    job: Job
    code: int
    lines: tuple[str, ...]
    log: Path


@dataclass
class _Process:
    """A running job; its output starts at byte `log_start` of the log."""

    job: Job
    process: subprocess.Popen[bytes]
    log_start: int

    @classmethod
    def start(cls, job: Job) -> "_Process":
        file, threads = job.write(), str(job.threads)
        environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        with (job.folder / LOG).open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}: {job.name}, {threads} threads\n".encode())
            log.flush()
            log_start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "oddetr.comparison.job", str(file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        return cls(job, process, log_start)

    def failure(self) -> Failure | None:
        """The failure of a process that has exited; None if it left a result."""
        if self.process.returncode == 0 and (self.job.folder / RESULT).is_file():
            return None
        file, code = self.job.folder / LOG, self.process.returncode
        lines = file.read_bytes()[self.log_start :].decode(errors="replace").splitlines()[-_LAST_LINES:]
        if code == BUSY:
            lines = ["Another process is training this run. Wait for it, or give another folder by --out."]
        return Failure(self.job, code, tuple(lines), file)

    def close_input(self) -> None:
        """Ask the process to exit."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> None:
        """Wait for the process to exit, and kill it if it does not."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ComparisonProgress:
    """Progress over all jobs of a comparison: a bar on a terminal, and a line for each job that exits.

    `finished` is the number of other runs, which had finished before.
    """

    def __init__(self, jobs: Sequence[Job], finished: int, console: Console) -> None:
        self.console = console
        self.finished, self.total = finished, finished + len(jobs)
        self.epochs = {job.name: chosen(job.config.epochs) for job in jobs}
        self.epochs_done = {job.name: _epochs_done(job) for job in jobs}
        self.start, self.before = time.monotonic(), self.done()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.line = self.bar.add_task("", total=1.0)

    def done(self) -> float:
        """The completed fraction of all epochs, in [0, 1]."""
        return sum(self.epochs_done.values()) / max(1, sum(self.epochs.values()))

    def show(self, running: Sequence[Job]) -> None:
        """Update the bar from the logs of the running jobs."""
        self.epochs_done |= {job.name: _epochs_done(job) for job in running}
        names = ", ".join(job.name for job in running)
        self.bar.update(self.line, completed=self.done(), description=f"{names}: {self._count()}")

    def end(self, job: Job, failure: Failure | None) -> None:
        """Print the outcome of a job."""
        self.epochs_done[job.name] = self.epochs[job.name]
        self.finished += failure is None
        if failure:
            lines = "".join(f"\n    {line}" for line in failure.lines)
            text = f"{job.name} failed with exit code {failure.code}; its last lines, of {failure.log}:{lines}\n"
        else:
            text = _result_text(job)
        style = "red" if failure else None
        print_line(self.console, f"{text}   {self._count()}", style)

    def _count(self) -> str:
        gained = self.done() - self.before
        left = clock((time.monotonic() - self.start) * (1 - self.done()) / gained) if gained > 0 else "-"
        return f"{self.finished} of {self.total} runs, left {left}"


def _epochs_done(job: Job) -> float:
    """The epochs that a run has completed; in parts from the second epoch on, when the steps of one are known."""
    events = read_events(job.folder)
    epoch = next((event for event in reversed(events) if event["kind"] == "epoch"), None)
    return events[-1]["step"] / max(1, epoch["step"]) * epoch["epoch"] if epoch else 0.0


def _result_text(job: Job) -> str:
    result = job.result()
    assert result is not None
    aps = {name: result.scores[name]["AP"] for name in ("teacher", "student")}
    scores = ", ".join(f"{name} AP {'-' if ap is None else f'{ap:.3f}'}" for name, ap in aps.items())
    return f"{job.name}: {scores} on {job.split}, {result.minutes:.1f} minutes"


def run_jobs(jobs: Sequence[Job], at_once: int, finished: int, console: Console) -> list[Failure]:
    """Run the jobs in order, `at_once` at a time, and resume interrupted ones; a failure does not stop the others.

    No process is left running, even after an exception. `finished` is the number of runs that had finished before.
    """
    waiting, running, failures = [*jobs], list[_Process](), list[Failure]()
    progress = ComparisonProgress(jobs, finished, console)
    try:
        with progress.bar:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Process.start(waiting.pop(0)))
                progress.show([process.job for process in running])
                time.sleep(_POLL)
                for process in [each for each in running if each.process.poll() is not None]:
                    running.remove(process)
                    process.close_input()
                    failure = process.failure()
                    failures += [failure] if failure else []
                    progress.end(process.job, failure)
    finally:
        for process in running:
            process.close_input()
        for process in running:
            process.wait()
    return failures
