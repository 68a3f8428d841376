"""A baseline's training step against that of transformers' Deformable-DETR, in one run: time and peak memory.

python benchmarks/training_step.py --size small        # ResNet-18, 3 + 3 layers, 320 px, 100 queries
python benchmarks/training_step.py --size paper        # ResNet-50, 6 + 6 layers, 640 px, 300 queries

Both have the same layers, trainable parameters (asserted), random weights, batch, dropout, threads, fused AdamW and
clipped gradients, and losses of their own in every decoder layer; ours has besides what its baseline has: the EMA.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import peer
import timing
import torch
import transformers
from steps import random_batch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.losses.detection import LossConfig
from oddetr.models.families.build import DetectorConfig, build_detector
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
    """transformers'; its layers up to stride 4 are frozen, as in ours and officially."""
    backbone = transformers.ResNetConfig(
        depths=size.stages,
        hidden_sizes=size.channels,
        layer_type=size.block,
        out_features=["stage2", "stage3", "stage4"],
    )
    model = peer.deformable_detr(size.detector, backbone, CLASSES).train()
    for name, parameter in model.model.backbone.named_parameters():
        later = "encoder.stages" in name and "encoder.stages.0" not in name
        parameter.requires_grad_(later and "normalization" not in name)
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
    """GiB of this process at the most, in three steps; both sides have imported the same."""
    for _ in range(3):
        training.step()
    return timing.peak_gib()


def main() -> None:
    parser = timing.parser(__doc__, threads=2)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(Training(arguments.memory_of, arguments)))
        return
    trainings = {name: Training(name, arguments) for name in SIDES}
    trainable = {name: training.trainable for name, training in trainings.items()}
    assert len(set(trainable.values())) == 1, f"trainable parameters differ: {trainable}"
    work = {name: training.step for name, training in trainings.items()} | PROBES
    times = timing.in_turns(work, arguments.rounds)
    gib = {name: timing.of_another_process("--memory-of", name) for name in SIDES}
    where = f"{arguments.batch} images of {SIZES[arguments.size].image_size} px, {arguments.threads} thread(s)"
    what = f"a training step of Deformable-DETR, {arguments.size} size, {where}"
    row = timing.Row(
        what,
        times["ours"],
        "transformers",
        times["transformers"],
        floor=floor(trainings["ours"].step, times),
        ours_gib=gib["ours"],
        theirs_gib=gib["transformers"],
    )
    timing.show([row], arguments.json)


_LEFT, _RIGHT = torch.randn(2048, 1024), torch.randn(1024, 1024)
_MAPS = torch.randn(2, 256, 64, 64).contiguous(memory_format=torch.channels_last)
_WEIGHT = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
PROBES: dict[str, Callable[[], object]] = {
    "product": lambda: _LEFT @ _RIGHT,
    "convolution": lambda: F.conv2d(_MAPS, _WEIGHT, padding=1),
}
"""How fast the machine is at what cannot be left out."""


def floor(step: Callable[[], object], times: Mapping[str, float]) -> float:
    """Milliseconds of a step's matrix products and convolutions alone, at the rates of large ones in the same turns."""
    with FlopCounterMode(display=False) as counter:
        step()
    total = counter.get_flop_counts()["Global"]
    convolutions = sum(count for operator, count in total.items() if "convolution" in str(operator))
    products = 2 * _LEFT.numel() * _RIGHT.shape[1] / times["product"]
    # Some of the convolutions are products.
    convolved = max(products, 2 * _MAPS.numel() * _WEIGHT[0].numel() / times["convolution"])
    return (sum(total.values()) - convolutions) / products + convolutions / convolved


if __name__ == "__main__":
    main()
