"""`oddetr`, in which something happens to one of several processes.

python -m tests.training.doomed RANK WHAT FOLDER VERB ...

Writes its process id to FOLDER, and `happened` when it happens: in the second epoch, or in its validation.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from oddetr import cli
from oddetr.data.batches import AccumulatedLoader
from oddetr.training.module import TrainingModule

EPOCH = 1


def die(_: LightningModule) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def diverge(module: LightningModule) -> None:
    """Predicts NaN, on this process only."""
    with torch.no_grad():
        for parameter in module.task.student.decoder.heads.parameters():
            parameter.fill_(float("nan"))


def spoil(module: LightningModule) -> None:
    """The image file that this process, and no other, reads last in this epoch becomes unreadable."""
    loader: AccumulatedLoader = module.trainer.train_dataloader
    loader.sampler.set_epoch(EPOCH)
    *_, (_, index) = loader.sampler
    image_id = loader.dataset.source.sample(index).image_id
    (file,) = Path(sys.argv[sys.argv.index("--data") + 1]).glob(f"train/{image_id}.png")
    file.write_bytes(b"no image")


KINDS = {"training": die, "validation": die, "nan": diverge, "image": spoil}


def doom(what: str, folder: Path) -> None:
    """Lets it happen when its time comes."""
    hook = {"validation": "validation_step", "image": "on_train_epoch_start"}.get(what, "on_train_batch_start")
    before = getattr(TrainingModule, hook)
    done: list[str] = []

    def after(module: TrainingModule, *arguments: Any) -> Any:
        if module.current_epoch == EPOCH and not done:
            done.append(what)
            (folder / "happened").touch()
            KINDS[what](module)
        return before(module, *arguments)

    setattr(TrainingModule, hook, after)


def main() -> int:
    """Lightning begins the other processes by the same command."""
    rank, what, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    own = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
    (folder / f"process{own}").write_text(str(os.getpid()))
    if own == rank:
        doom(what, folder)
    return cli.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
