"""`oddetr`, in which one of several processes is killed or fails in the second epoch.

python -m tests.training.doomed RANK killed|failed FOLDER VERB ...

Writes its process id to FOLDER, and `happened` when it happens.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from oddetr import cli
from oddetr.training.module import TrainingModule


def doom(what: str, folder: Path) -> None:
    start_batch = TrainingModule.on_train_batch_start

    def start_last_batch(module: TrainingModule, *arguments: Any) -> None:
        if module.current_epoch == 1:
            (folder / "happened").touch()
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk has failed")
        start_batch(module, *arguments)

    TrainingModule.on_train_batch_start = start_last_batch


def main() -> int:
    """Lightning starts the other processes by the same command."""
    rank, what, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    own = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
    (folder / f"process{own}").write_text(str(os.getpid()))
    if own == rank:
        doom(what, folder)
    return cli.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
