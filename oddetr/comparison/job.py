"""One run of a comparison, in its own process: python -m oddetr.comparison.job JOB.json.

The process exits when its standard input is closed, so it never outlives the comparison that started it.
"""

import os
import platform
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from oddetr.comparison.records import Job, RunResult

BUSY = 75
"""Exit code if another process is training the run."""


def main(file: Path) -> None:
    """Train or resume the run that `file` describes, and write its result."""
    threading.Thread(target=_exit_with_input, daemon=True).start()

    from oddetr.common.terminal import Terminal
    from oddetr.comparison.records import RESULT, Job
    from oddetr.training.processes import is_first_process
    from oddetr.training.run import run

    job = Job.read(file)
    lock = lock_folder(job.folder) if is_first_process() else None
    if lock:
        (job.folder / RESULT).unlink(missing_ok=True)
    run(job.config, Terminal(), compared=True)
    if lock:
        scored(job).write(job.folder)
        lock.close()


def scored(job: "Job") -> "RunResult":
    """Evaluate student and teacher of a finished run's last checkpoint."""
    import torch

    from oddetr import __version__
    from oddetr.comparison.records import RunResult
    from oddetr.prediction.predictor import evaluate
    from oddetr.structures import Weights
    from oddetr.training.records.log import read_events

    last = job.folder / "last"
    scores = {weights: evaluate(last, split=job.split, weights=weights).to_json() for weights in get_args(Weights)}
    epochs = [event for event in read_events(job.folder) if event["kind"] == "epoch"]
    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    machine = (
        f"{device}{platform.system()} {platform.machine()}, {os.cpu_count()} cores; runs at a time: {job.at_once}, "
        f"threads of each: {job.threads}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"oddetr {__version__}"
    )
    return RunResult(job.arm, job.seed, job.split, epochs, scores, machine)


def lock_folder(folder: Path) -> IO[str]:
    """Lock the run's folder until the returned file is closed; exit if another process holds the lock.

    Without `fcntl` (Windows) nothing is locked.
    """
    handle = (folder / ".lock").open("a")
    try:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        handle.close()
        sys.exit(BUSY)
    return handle


def _exit_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
