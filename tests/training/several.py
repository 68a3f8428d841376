"""Trainings of two processes, and what each of them saw."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import distributed, multiprocessing

from oddetr.data.transforms import AugmentConfig
from oddetr.distillation.config import DistillationConfig
from oddetr.models.detector import Detector
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.squares import write_squares
from tests.training.helpers import quiet

TRAIN, VAL = 11, 7
"""Images: neither can be shared out evenly."""
EMPTY = (1, 2, 4, 5, 7, 10, 11)
"""Training images without objects."""


def write_data(folder: Path) -> Path:
    """Squares, and images without any; weights for the backbone, so that no batch norm looks at the batch; and in
    `learning` more squares, to learn from."""
    write_squares(folder, "train", TRAIN, seed=0)
    write_squares(folder, "val", VAL, seed=1)
    write_squares(folder / "learning", "train", 15, seed=0)
    write_squares(folder / "learning", "val", VAL, seed=1)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] not in EMPTY]
    file.write_text(json.dumps(content))
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "backbone.safetensors")
    return folder


def arguments_of(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Of a run that does not depend on how its images are shared out: no dropout, no norm over the batch, images of one
    size, which nothing pads."""
    tiny = tiny_arguments(data, out)
    detector = tiny["detector"] | {"dropout": 0.0, "pretrained": True, "width": 64} | changes.pop("detector", {})
    return tiny | {
        "epochs": 3,
        "image_size": 96,
        "detector": detector,
        "backbone_weights": data / "backbone.safetensors",
        "augment": AugmentConfig(flip=True, min_scale=1.0, crop=False),
        "distillation": DistillationConfig(horizon=3.0),
        "optimizer": OptimizerConfig(learning_rate=3e-5),
        **changes,
    }


class Witness(Callback):
    """What one process sees of its training.

    Attributes:
        seen: for each batch the images' ids, and the number of objects; validated: the ids.
        gradients: of each step, before they are clipped.
        teachers: their bits after each batch.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, ...], int]] = []
        self.validated: list[int] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.teachers: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append((batch.image_ids, batch.truth.total))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.gradients.append(
            {name: each.grad.clone() for name, each in pl_module.task.learned() if each.requires_grad}
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.teachers.append(bits(pl_module.task.teacher.detector.state_dict()))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validated += batch.image_ids


class Apart(Callback):
    """Begins with weights at random, all of them, and moves the teacher off the student before each step; disturbed
    objects lie where the objects are. Where all queries, or student and teacher, predict the same, rounding decides who
    is matched, and the sign of the L1 loss's gradient."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        student, teacher = pl_module.detectors["student"], pl_module.detectors["teacher"]
        disturb(student, seed=1000)
        teacher.load_state_dict(student.state_dict())
        if student.denoising:
            student.denoising.box_noise = student.denoising.label_noise = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            disturb(pl_module.detectors["teacher"], seed=trainer.global_step)


def disturb(detector: Detector, seed: int) -> None:
    """Adds noise to all but the backbone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in detector.named_parameters():
            if not name.startswith("backbone"):
                each += 0.1 * torch.randn(each.shape, generator=generator)


def bits(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of them all."""
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


def trained(arguments: dict[str, Any], *callbacks: Callback) -> Witness:
    """Trains in this process, which may be one of several."""
    witness = Witness()
    trainer = arguments["trainer"] | {"callbacks": [*callbacks, witness]}
    run(TrainConfig(**arguments | {"trainer": trainer}), quiet())
    return witness


def in_two_processes(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """`work(rank, folder, *arguments)` in two processes that Lightning takes for those of one node."""
    multiprocessing.spawn(_one_of_two, (work, folder, *arguments), nprocs=2)


def _one_of_two(rank: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    work(rank, folder, *arguments)
    distributed.barrier()
    distributed.destroy_process_group()
