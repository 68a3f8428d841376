"""A baseline's training step against that of transformers' Deformable-DETR, in one run: time and peak memory.

python benchmarks/training_step.py --size small        # ResNet-18, 3 + 3 layers, 320 px, 100 queries
python benchmarks/training_step.py --size paper        # ResNet-50, 6 + 6 layers, 640 px, 300 queries

Both have the same layers, trainable parameters (asserted), random weights, batch, dropout, threads, fused AdamW and
clipped gradients, and losses of their own in every decoder layer; ours has besides what its baseline has: the EMA. They
take turns, step by step; medians. Peak memory is of a process for each, on Linux.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from step_profile import random_batch
from torch import nn

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.losses import LossConfig
from oddetr.models.presets import DetectorConfig, build_detector
from oddetr.structures import Batch

CLASSES = 10


class Size(NamedTuple):
    """Of the detector and its images; `stages` and `block` are ResNet's."""

    detector: DetectorConfig
    stages: list[int]
    channels: list[int]
    block: str
    image_size: int


SIZES = {
    "small": Size(
        DetectorConfig(backbone="resnet18", encoder_layers=3, decoder_layers=3, num_queries=100),
        [2, 2, 2, 2],
        [64, 128, 256, 512],
        "basic",
        320,
    ),
    "paper": Size(DetectorConfig(), [3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck", 640),
}


class Side(NamedTuple):
    """A detector, its loss of the batch, and what it does after the optimizer."""

    detector: nn.Module
    loss: Callable[[], torch.Tensor]
    after: Callable[[], object]

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.detector.parameters() if parameter.requires_grad)


def ours(size: Size, batch: Batch) -> Side:
    """The focal baseline: all distillation off."""
    loss = LossConfig("focal")
    task = DistillationTask(build_detector(size.detector, CLASSES), 1000, DistillationConfig(enabled=False), loss)
    task.train()
    return Side(task.student, lambda: task(batch)["loss"], task.update_teacher)


def theirs(size: Size, batch: Batch) -> Side:
    """transformers', with its own options; layers up to stride 4 are frozen, as in ours and officially."""
    import transformers

    config = size.detector
    layers = {
        "layers": config.encoder_layers,
        "ffn_dim": config.ffn_width,
        "attention_heads": config.heads,
        "n_points": config.points,
    }
    model: Any = transformers.DeformableDetrForObjectDetection(
        transformers.DeformableDetrConfig(
            backbone_config=transformers.ResNetConfig(
                depths=size.stages,
                hidden_sizes=size.channels,
                layer_type=size.block,
                out_features=["stage2", "stage3", "stage4"],
            ),
            num_labels=CLASSES,
            num_queries=config.num_queries,
            d_model=config.width,
            dropout=config.dropout,
            auxiliary_loss=True,
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in layers.items()},
        )
    ).train()
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(
            "encoder.stages" in name and "encoder.stages.0" not in name and "normalization" not in name
        )
    images = zip(batch.truth.labels, batch.truth.boxes, batch.truth.counts, strict=True)
    labels = [{"class_labels": classes[:count], "boxes": boxes[:count]} for classes, boxes, count in images]
    mask = (~batch.padding_mask).long()
    return Side(model, lambda: model(batch.images, pixel_mask=mask, labels=labels).loss, lambda: None)


SIDES = {"ours": ours, "transformers": theirs}


class Training:
    """Steps of one side."""

    def __init__(self, side: str, arguments: argparse.Namespace) -> None:
        size = SIZES[arguments.size]
        torch.manual_seed(0)
        torch.set_num_threads(arguments.threads)
        self.side = SIDES[side](size, random_batch(size.image_size, arguments.batch))
        self.optimizer = torch.optim.AdamW(self.side.parameters(), lr=1e-5, fused=True)

    @property
    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.side.parameters())

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.side.loss().backward()
        nn.utils.clip_grad_norm_(self.side.parameters(), 0.1)
        self.optimizer.step()
        self.side.after()


def peak_memory(training: Training) -> float:
    """GiB of this process at the most, in three steps."""
    for _ in range(3):
        training.step()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(Training(arguments.memory_of, arguments)))
        return
    trainings = {name: Training(name, arguments) for name in SIDES}
    trainable = {name: training.trainable for name, training in trainings.items()}
    assert len(set(trainable.values())) == 1, f"trainable parameters differ: {trainable}"
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(arguments.rounds + 2):
        for name, training in trainings.items():
            start = time.perf_counter()
            training.step()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    print(
        f"{arguments.size}: {arguments.batch} images of {SIZES[arguments.size].image_size} px, {arguments.threads} "
        f"thread(s), {next(iter(trainable.values())):,} trainable parameters"
    )
    for name, values in times.items():
        command = [sys.executable, *sys.argv, "--memory-of", name]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        ratio = median(values) / median(times["ours"])
        print(f"  {name:<14}{1e3 * median(values):8.0f} ms  {ratio:5.2f} times ours  {peak:5.2f} GiB")


if __name__ == "__main__":
    main()
