"""Small detectors for tests."""

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import EvalTransform
from oddetr.distillation.task import DistillationTask
from oddetr.evaluation.coco import evaluate_detections
from oddetr.evaluation.postprocessing import postprocess
from oddetr.models.detector import ComposedDetector, Detector
from oddetr.models.families.build import DetectorConfig, Variant, compose
from oddetr.models.queries import QuerySource
from oddetr.structures import Batch, GroundTruth, Predictions, Queries

VARIANTS = get_args(Variant)

SMALL = DetectorConfig(
    pretrained=False,
    width=32,
    heads=4,
    ffn_width=48,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=6,
    levels=4,
    points=2,
    dropout=0.0,
)


class StridedBackbone(nn.Module):
    """Three random convolutions with strides 8, 16 and 32: a backbone that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = [4, 8, 12]
        self.mean, self.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        self.stages = nn.ModuleList(
            nn.Conv2d(3, count, stride, stride) for count, stride in zip(self.channels, (8, 16, 32), strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage(images) for stage in self.stages]


def small_detector(variant: str = "plain", num_classes: int = 3, seed: int = 0, **changes: object) -> Detector:
    torch.manual_seed(seed)
    if variant == "dino":
        changes = {"denoising": 10} | changes
    return compose(SMALL.override({"variant": variant, **changes}), num_classes, StridedBackbone())


def small_batch(counts: tuple[int, ...] = (2, 0), size: int = 64, seed: int = 0, num_classes: int = 3) -> Batch:
    """Random images with `counts` objects; the second half of the last image's columns is padding."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(counts), 3, size, size, generator=generator)
    mask = torch.zeros(len(counts), size, size, dtype=torch.bool)
    mask[-1, :, size // 2 :] = True
    images[-1, :, :, size // 2 :] = 0
    labels = [torch.randint(num_classes, (count,), generator=generator) for count in counts]
    boxes = [torch.rand(count, 4, generator=generator) * 0.4 + 0.2 for count in counts]
    return Batch(
        images=images,
        padding_mask=mask,
        truth=GroundTruth.stack(labels, boxes),
        image_ids=tuple(range(len(counts))),
        original_sizes=torch.full((len(counts), 2), size),
    )


def other_group(queries: Queries, count: int, point_or_box: int, seed: int = 0) -> Queries:
    """A group of random queries of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, width = queries.content.shape
    return Queries(
        content=torch.randn(batch, count, width, generator=generator),
        anchors=torch.rand(batch, count, point_or_box, generator=generator),
        position=None if queries.position is None else torch.randn(batch, count, width, generator=generator),
        identity=torch.arange(count).expand(batch, -1),
    )


def part_of(queries: Queries, start: int, stop: int) -> Queries:
    """Some queries of a group, which attend to one another."""
    whole = {name: getattr(queries, name) for name in ("content", "anchors", "position", "identity", "padding")}
    part = {name: each if each is None else each[:, start:stop] for name, each in whole.items()}
    return replace(queries, **part, attention_mask=None)


def assert_predictions_close(found: Predictions, expected: Predictions, tolerance: float = 1e-6) -> None:
    for part in ("logits", "boxes", "content"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def ap50_of_two_scenes(task: DistillationTask, rate: float) -> float:
    """Trains the task on a batch of two digit scenes, for its number of steps, and scores the teacher on them."""
    source = DigitScenes("train", 2)
    dataset = TransformedDataset(source, EvalTransform(64, (0.5,) * 3, (0.5,) * 3))
    (batch,) = make_loader(dataset, EpochSampler(2, shuffle=False), 2)
    optimizer = torch.optim.AdamW(task.student.parameters(), lr=rate)
    task.train()
    for step in range(task.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / task.steps)
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.student.parameters(), 1.0)
        optimizer.step()
        task.update_teacher()
    task.eval()
    with torch.no_grad():
        predictions = task.teacher.detector(batch.images, batch.padding_mask)
    found = dict(zip(batch.image_ids, postprocess(predictions, batch.original_sizes, top_k=100), strict=True))
    return evaluate_detections(source.annotations(), source.classes, found).ap50


def assert_frozen_encoder_stays(detector: Detector, batch: Batch) -> None:
    """Freezing the encoder freezes what `encode` uses, and two steps of training move some of the rest only."""
    learned = {name: each for name, each in detector.named_parameters() if each.requires_grad}
    encoded = detector.encode(batch.images, batch.padding_mask).tokens.sum()
    gradients = torch.autograd.grad(encoded, [*learned.values()], allow_unused=True)
    used = {name for name, gradient in zip(learned, gradients, strict=True) if gradient is not None}
    detector.freeze("encoder")
    frozen = {name for name, parameter in detector.named_parameters() if not parameter.requires_grad}
    assert used <= frozen
    task = DistillationTask(detector, 4).train()
    optimizer = torch.optim.AdamW((each for _, each in task.learned() if each.requires_grad), lr=1e-2)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for _ in range(2):
        assert not detector.encode(batch.images, batch.padding_mask).tokens.requires_grad
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        optimizer.step()
        task.update_teacher(finite=True)
    after = detector.state_dict()
    moved = {name for name, value in before.items() if not value.equal(after[name])}
    assert moved
    assert not moved & frozen
    kept = [part for part in detector.frozen if isinstance(part, nn.Module)]
    assert not any(module.training for part in kept for module in part.modules())
    assert detector.training
    averages = task.teacher.detector.state_dict()
    assert all(averages[name].equal(before[name]) for name in frozen & averages.keys())
    assert not any(averages[name].equal(before[name]) for name in moved if before[name].is_floating_point())


def hollow(kind: type[ComposedDetector] = ComposedDetector) -> ComposedDetector:
    """A detector without weights, for what does not run it."""
    part = nn.Identity()
    return kind(part, part, part, QuerySource(1, 1), part)
