"""Small detectors for tests."""

from typing import get_args

import torch
from torch import Tensor, nn

from oddetr.models.detector import Detector
from oddetr.models.families.build import DetectorConfig, Variant, compose
from oddetr.structures import Batch, GroundTruth, Predictions

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


def assert_predictions_close(found: Predictions, expected: Predictions, tolerance: float = 1e-6) -> None:
    for part in ("logits", "boxes", "content"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
