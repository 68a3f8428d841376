"""A training step without data or engine, for the benchmarks that take it apart."""

import torch
from torch import nn

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.models.families.build import PRESETS, build_detector
from oddetr.structures import Batch, GroundTruth


def random_batch(size: int, images: int = 8, objects: int = 6) -> Batch:
    """Noise with `objects` objects per image."""
    return Batch(
        images=torch.randn(images, 3, size, size),
        padding_mask=torch.zeros(images, size, size, dtype=torch.bool),
        truth=GroundTruth.stack(
            [torch.randint(10, (objects,)) for _ in range(images)],
            [torch.rand(objects, 4) * 0.3 + 0.2 for _ in range(images)],
        ),
        image_ids=tuple(range(images)),
        original_sizes=torch.full((images, 2), size),
    )


class Training:
    """A task of its own for a preset, always with the same weights, and its steps on one batch.

    `wrapped` is what a step calls: the task, unless processes share it.
    """

    def __init__(
        self,
        preset: str,
        batch: Batch,
        distillation: DistillationConfig,
        device: str = "cpu",
        queries: int | None = None,
        groups: GroupsConfig | None = None,
    ) -> None:
        torch.manual_seed(0)
        changes = {} if queries is None else {"num_queries": queries}
        detector = build_detector(PRESETS[preset].override(changes), num_classes=10).to(device)
        self.task = DistillationTask(detector, 1000, distillation, groups=groups or GroupsConfig()).to(device).train()
        self.wrapped: nn.Module = self.task
        self.optimizer = torch.optim.AdamW(self.learned, lr=1e-5, fused=True)
        self.batch = batch.to(device)

    @property
    def learned(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.task.parameters() if parameter.requires_grad]

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.wrapped(self.batch)["loss"].backward()
        nn.utils.clip_grad_norm_(self.learned, 0.1)
        self.optimizer.step()
        self.task.update_teacher()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()
