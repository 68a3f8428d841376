"""Box formats, IoU, GIoU and L1 distance. Inputs of lower precision are computed in float32.

`cxcywh` is (centre x, centre y, width, height); `xyxy` is (left, top, right, bottom).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def _at_least_float32(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def cxcywh_to_xyxy(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Convert (cx, cy, w, h) to (x0, y0, x1, y1), in the same unit."""
    centre, size = _at_least_float32(boxes).split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Convert (x0, y0, x1, y1) to (cx, cy, w, h), in the same unit."""
    start, end = _at_least_float32(boxes).split(2, dim=-1)
    return torch.cat([(start + end) / 2, end - start], dim=-1)


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and enclosing area of broadcastable `xyxy` boxes."""
    inner = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])).clamp(
        min=0
    )
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    area_first, area_second = ((box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (first, second))
    intersection = inner.prod(dim=-1)
    return intersection, area_first + area_second - intersection, outer.prod(dim=-1)


def _divide(part: Tensor, area: Tensor) -> Tensor:
    """part / max(area, eps^2), with eps the machine epsilon.

    The floor is not the smallest positive number because its square underflows to 0, so that the gradient,
    part / area^2, would be NaN.
    """
    return part / area.clamp(min=torch.finfo(area.dtype).eps ** 2)


def iou(first: Float[Tensor, "*#any 4"], second: Float[Tensor, "*#any 4"]) -> Float[Tensor, "*#any"]:
    """Intersection over union, in [0, 1], of broadcastable `cxcywh` boxes; 0 if both are empty."""
    intersection, union, _ = _overlap(cxcywh_to_xyxy(first), cxcywh_to_xyxy(second))
    return _divide(intersection, union)


def generalized_iou(first: Float[Tensor, "*#any 4"], second: Float[Tensor, "*#any 4"]) -> Float[Tensor, "*#any"]:
    """Generalised IoU, in [-1, 1], of broadcastable `cxcywh` boxes (Rezatofighi et al., arXiv 1902.09630).

    GIoU = IoU - (enclosing - union) / enclosing

    For all pairs of [N, 4] and [M, 4] pass [N, 1, 4] and [1, M, 4].
    """
    intersection, union, enclosing = _overlap(cxcywh_to_xyxy(first), cxcywh_to_xyxy(second))
    return _divide(intersection, union) - _divide(enclosing - union, enclosing)


def pairwise_l1(first: Float[Tensor, "*batch n 4"], second: Float[Tensor, "*batch m 4"]) -> Float[Tensor, "*batch n m"]:
    """L1 distance of every box of `first` to every box of `second`, summed over the four coordinates."""

    return torch.cdist(_at_least_float32(first), _at_least_float32(second), p=1)
