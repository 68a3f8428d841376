"""OD-DETR (arXiv 2406.05791): an EMA teacher's matching, predictions and best queries teach the student online."""

from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.task import DistillationTask

__all__ = ["DistillationConfig", "DistillationTask"]
