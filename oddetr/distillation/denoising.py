"""The denoising group of DINO and RT-DETR: the detector disturbs the objects, and finds them again."""

from oddetr.distillation.group import Assigned, Group, Term
from oddetr.losses.detection import LossConfig
from oddetr.structures import AssignedQueries, GroundTruth


def denoising_group(disturbed: AssignedQueries, truth: GroundTruth, loss: LossConfig) -> Group:
    """The queries that `Detector.denoising` made of the objects; they are not distilled."""
    return Group(
        "denoising", disturbed.queries, (Term("denoising_", 1.0, loss.for_denoising, Assigned(truth, disturbed)),)
    )
