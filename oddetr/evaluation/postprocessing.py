"""Post-processing: the decoder's predictions to detections."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.evaluation.detections import Detections
from oddetr.structures import Predictions


def postprocess(
    predictions: Predictions, sizes: Int64[Tensor, "batch 2"], top_k: int, labels: Sequence[int] | None = None
) -> list[Detections]:
    """The `top_k` best detections of each image from the last decoder layer, best first.

    Pairs of query and class compete, so a query may give several detections. As in the official implementations, boxes
    are not clipped to the image.

    Args:
        sizes: (height, width) in pixels of the images that the boxes are scaled to.
        labels: the classes that compete; default: all.
    """
    return from_table(detection_table(predictions, top_k, labels).cpu(), sizes)


def detection_table(
    predictions: Predictions, top_k: int, labels: Sequence[int] | None = None
) -> Float[Tensor, "batch top 6"]:
    """Like `best_detections`, as one tensor: (x0, y0, x1, y1), score and label."""
    boxes, scores, found = best_detections(predictions, top_k, labels)
    return torch.cat([boxes, scores[..., None], found[..., None].float()], dim=-1)


def from_table(table: Float[Tensor, "batch top 6"], sizes: Int64[Tensor, "batch 2"]) -> list[Detections]:
    """The detections of a table of `detection_table` on the host; `sizes` as for `postprocess`."""
    extent = sizes.flip(-1).repeat(1, 2)[:, None]
    boxes = table[..., :4] * extent
    return [
        Detections(image_boxes.numpy(), image[:, 4].numpy(), image[:, 5].long().numpy())
        for image, image_boxes in zip(table, boxes, strict=True)
    ]


def best_detections(
    predictions: Predictions, top_k: int, labels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "batch top 4"], Float[Tensor, "batch top"], Int64[Tensor, "batch top"]]:
    """Like `postprocess`, on the device: boxes (x0, y0, x1, y1) relative to the unpadded image, scores and labels."""
    logits = predictions.logits[-1] if labels is None else predictions.logits[-1][..., list(labels)]
    scores = logits.float().sigmoid()
    classes = scores.shape[-1]
    best, places = scores.flatten(1).topk(min(top_k, scores[0].numel()), dim=1)
    boxes = cxcywh_to_xyxy(predictions.boxes[-1]).gather(1, (places // classes)[..., None].expand(-1, -1, 4))
    found = places % classes
    return boxes, best, found if labels is None else torch.tensor(labels, device=found.device)[found]
