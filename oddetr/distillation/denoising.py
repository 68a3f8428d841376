"""The denoising group of DINO and RT-DETR: reconstruct objects from noised boxes and labels."""

from oddetr.distillation.group import Assigned, Group, Term
from oddetr.losses.detection import LossConfig
from oddetr.structures import AssignedQueries, GroundTruth


def denoising_group(noised: AssignedQueries, truth: GroundTruth, loss: LossConfig) -> Group:
    """The group of the noised queries from `Detector.denoising`; they are not distilled."""
    return Group("denoising", noised.queries, (Term("denoising_", 1.0, loss.for_denoising, Assigned(truth, noised)),))
