"""The detectors of Hugging Face `transformers` as ours: which are supported, and which adapter each takes."""

from typing import Any

from oddetr.models.transformers.base import IMAGENET, HuggingFaceDetector
from oddetr.models.transformers.deformable_detr import HuggingFaceDeformableDetr
from oddetr.models.transformers.rt_detr import HuggingFaceRealTimeDetr

REAL_TIME = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")
"""`config.model_type` of RT-DETR and its descendants, which one adapter serves."""
SUPPORTED = ("deformable_detr", *REAL_TIME)


def adapt(
    model: Any, mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]
) -> HuggingFaceDetector:
    """A model for object detection of transformers as a detector.

    Raises:
        ValueError: it is of another kind than `SUPPORTED`.
    """
    kind = model.config.model_type
    check_kind(kind)
    return (HuggingFaceRealTimeDetr if kind in REAL_TIME else HuggingFaceDeformableDetr)(model, mean, std)


def check_kind(kind: str) -> None:
    """Raises ValueError for a model that is not supported."""
    if kind not in SUPPORTED:
        raise ValueError(
            f"transformers' {kind} cannot be trained here: its decoder does not take queries, reference points and an "
            f"attention mask for all of them. Supported: {', '.join(SUPPORTED)}."
        )
