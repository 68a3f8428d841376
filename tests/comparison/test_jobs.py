"""Processes are real here, but instead of training they do what a small script says."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from oddetr.comparison import jobs
from oddetr.comparison.job import BUSY, lock_folder
from oddetr.comparison.jobs import run_jobs
from oddetr.comparison.records import Job
from tests.comparison.ctrl_c import ctrl_c_when
from tests.comparison.synthetic import made_job, made_result

PYTHON = sys.executable
STUB = """#!{python} -S
import json, os, sys, time
from os import environ
folder = os.path.dirname(sys.argv[3])
arm = os.path.basename(os.path.dirname(folder))
marks = os.path.join(folder, os.pardir, os.pardir, "marks.txt")
def mark(text):
    with open(marks, "a") as stream:
        stream.write(f"{{text}} {{os.getpid()}} {{environ['OMP_NUM_THREADS']}} {{environ['NUMBA_NUM_THREADS']}}\\n")
mark("start")
print("a line of", arm, flush=True)
if arm in ("waits", "deaf"):
    with open(os.path.join(folder, "metrics.jsonl"), "w") as stream:
        stream.write(json.dumps(dict(kind="train", step=1, epoch=0)) + "\\n")
    if arm == "deaf":
        time.sleep(60)
    os.read(0, 1)
    mark("asked")
    sys.exit(1)
time.sleep(0.1)
if arm == "busy":
    sys.exit(75)
if arm == "fails":
    print("the reason", flush=True)
    sys.exit(3)
if arm != "silent":
    os.replace(os.path.join(folder, "prepared.json"), os.path.join(folder, "result.json"))
mark("end")
sys.exit(4 if arm == "late" else 0)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Makes jobs of the script: those of the arms fails, silent, ... do that, others leave a result."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(python=PYTHON))
    stub.chmod(0o755)
    monkeypatch.setattr(jobs.sys, "executable", str(stub))
    monkeypatch.setattr(jobs, "_POLL", 0.02)

    def make(arm: str, seed: int = 0) -> Job:
        made = made_job(tmp_path, arm, seed, epochs=2)
        made.folder.mkdir(parents=True)
        made_result(arm, seed).write(made.folder)
        (made.folder / "result.json").rename(made.folder / "prepared.json")
        return made

    return make


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def marks(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "marks.txt").read_text().splitlines()]


def test_jobs_run_one_after_the_other_or_at_most_so_many_at_a_time(job: Callable, tmp_path: Path) -> None:
    console = quiet()
    made = [job("qfl", 0), job("qfl", 1), job("focal", 0)]
    assert run_jobs(made, 1, 2, console) == []
    assert [words[0] for words in marks(tmp_path)] == ["start", "end"] * 3
    assert {tuple(words[2:]) for words in marks(tmp_path)} == {("1", "1")}
    assert [one.result() for one in made] == [made_result(one.arm, one.seed) for one in made]
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "qfl seed 0: teacher AP 0.300, student AP 0.200 on test, 2.0 minutes   3 of 5 runs, left"
    )
    assert lines[2].endswith("5 of 5 runs, left 0:00")
    assert "a line of qfl" in (made[0].folder / "log.txt").read_text()
    run_jobs([job("qfl", seed) for seed in range(2, 6)], 2, 0, quiet())
    running = [0]
    for words in marks(tmp_path)[6:]:
        running.append(running[-1] + (1 if words[0] == "start" else -1))
    assert max(running) <= 2


def test_failed_job_is_reported_and_the_others_go_on(job: Callable, tmp_path: Path) -> None:
    made = [job("fails"), job("silent"), job("late"), job("qfl")]
    made[0].folder.joinpath("log.txt").write_text("of an earlier attempt\n")
    console = quiet()
    failed, silent, late = run_jobs(made, 1, 0, console)
    assert (failed.job, failed.code, failed.lines) == (made[0], 3, ("a line of fails", "the reason"))
    assert (silent.job, silent.code) == (made[1], 0)
    assert (late.job, late.code) == (made[2], 4)
    assert made[3].result() == made_result("qfl")
    output = console.file.getvalue()
    assert f"fails seed 0 failed with exit code 3; its last lines, of {made[0].folder / 'log.txt'}:" in output
    assert "    the reason\n" in output
    assert "of an earlier attempt" in failed.log.read_text()


def test_job_exits_when_another_process_trains_the_run(job: Callable) -> None:
    made = job("busy")
    lock = "import fcntl, sys; fcntl.lockf(file := open(sys.argv[1], 'w'), fcntl.LOCK_EX); print(flush=True); input()"
    words = [PYTHON, "-S", "-c", lock, str(made.folder / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "\n"
        with pytest.raises(SystemExit) as ended:
            lock_folder(made.folder)
        assert ended.value.code == BUSY == 75
        other.communicate("\n")
    lock_folder(made.folder).close()
    (failure,) = run_jobs([made], 1, 0, quiet())
    assert failure.lines == ("Another process is training this run. Wait for it, or give another folder by --out.",)


@pytest.mark.parametrize(("arm", "asked"), [("waits", ["asked"]), ("deaf", [])])
def test_interrupted_jobs_are_asked_to_exit_and_killed_if_they_do_not(
    arm: str, asked: list[str], job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_PATIENCE", 10 if asked else 0.1)
    made = [job(arm), job("qfl")]
    with ctrl_c_when((made[0].folder / "metrics.jsonl").exists):
        run_jobs(made, 1, 0, quiet())
    assert [words[0] for words in marks(tmp_path)] == ["start", *asked]
    with pytest.raises(ProcessLookupError):
        os.kill(int(marks(tmp_path)[0][1]), 0)


def test_progress_on_a_terminal_shows_running_jobs(job: Callable) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    run_jobs([job("qfl")], 1, 1, console)
    assert "qfl seed 0: 1 of 2 runs" in console.file.getvalue()


@pytest.mark.parametrize(
    ("events", "part"),
    [
        ([], 0.0),
        ([("train", 5, 0)], 0.0),
        ([("epoch", 8, 1), ("train", 12, 1)], 12 / 16),
        ([("epoch", 8, 1), ("epoch", 16, 2)], 1.0),
    ],
)
def test_progress_counts_epochs_and_steps_once_an_epoch_is_complete(job: Callable, events: list, part: float) -> None:
    made = job("qfl")
    lines = [json.dumps({"kind": kind, "step": step, "epoch": epoch}) for kind, step, epoch in events]
    (made.folder / "metrics.jsonl").write_text("\n".join(lines))
    assert jobs.ComparisonProgress([made], 0, quiet()).done() == pytest.approx(part)
