"""OD-DETR in a fine-tuning script of transformers: `DistillationTrainer` replaces `Trainer`.

from oddetr.integrations.transformers import DistillationTrainer as Trainer
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.utils import ModelOutput

from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.task import DistillationTask
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import MatchingWeights
from oddetr.models.transformers.adapters import adapt
from oddetr.structures import Batch, GroundTruth

TEACHER = "teacher"
"""Folder in each checkpoint with the teacher's model, for `from_pretrained`."""
_STEPS = "oddetr.json"


class DistillationTrainer(Trainer):
    """transformers' Trainer with the loss of OD-DETR; evaluates the EMA teacher.

    Batches are those of transformers' detectors: `pixel_values`, `pixel_mask` where the model reads one, and `labels`,
    a list of `class_labels` and `boxes` ((cx, cy, w, h), relative as for the model's own loss). Everything else is
    Trainer's. A checkpoint holds the student, as Trainer saves it, and the teacher in the folder `teacher`; a resumed
    training loads both. With `gradient_accumulation_steps` losses are normalised by the objects of the whole step, as
    in `oddetr train`.

    Args:
        distillation, loss, matching: of `DistillationTask`; everything else goes to Trainer.

    Raises:
        ValueError: the model is of a kind that cannot be trained (`oddetr.models.transformers.adapters.SUPPORTED`), or
            this one process would train on several GPUs.
    """

    def __init__(
        self,
        *arguments: Any,
        distillation: DistillationConfig | None = None,
        loss: LossConfig | None = None,
        matching: MatchingWeights | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.args.n_gpu} GPUs, on which Trainer would use DataParallel. Start one process "
                "for each (torchrun --nproc-per-node N SCRIPT), or show it one (CUDA_VISIBLE_DEVICES=0)."
            )
        model: Any = self.model
        self._step = _Step()
        self.task = DistillationTask(adapt(model), 1, distillation, loss, matching)
        self.add_callback(_UpdateTeacher(self.task))
        # DDP averages the gradients of what the model's own forward computes, so that must be the loss.
        model.forward = MethodType(_forward_of(self.task, self._step, type(model).forward), model)
        self.model_accepts_loss_kwargs = False

    @property
    def teacher(self) -> Any:
        """The EMA of the model, of the same class."""
        return self.task.teacher.detector.model  # pyright: ignore[reportAttributeAccessIssue]

    def get_batch_samples(self, *arguments: Any, **keywords: Any) -> Any:
        """Batches of the next optimizer step; counts their objects."""
        parts, items = super().get_batch_samples(*arguments, **keywords)
        self._step.parts = len(parts)
        self._step.objects = sum(len(each["class_labels"]) for part in parts for each in part["labels"])
        return parts, items

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        """Evaluates the teacher in place of the student."""
        self.task.teacher.to(self.args.device)
        return super().prediction_step(self.teacher, inputs, *arguments, **keywords)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir)) / TEACHER
        self.teacher.save_pretrained(folder)
        (folder / _STEPS).write_text(json.dumps({"steps": self.task.teacher.steps}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_both(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_both(Path(str(self.state.best_model_checkpoint)))

    def _load_both(self, checkpoint: Path) -> None:
        """Loads student and teacher by `from_pretrained`: Trainer (5.23) skips, with a warning only, student weights
        that `save_pretrained` renames."""
        folder = checkpoint / TEACHER
        if not folder.is_dir():
            raise ValueError(f"{checkpoint} has no teacher: it was not written by DistillationTrainer.")
        student: Any = self.model
        for model, source in ((student, checkpoint), (self.teacher, folder)):
            model.load_state_dict(type(self.teacher).from_pretrained(source, use_safetensors=True).state_dict())
        self.task.teacher.steps = int(json.loads((folder / _STEPS).read_text())["steps"])


@dataclass
class _Step:
    """Sizes of an optimizer step on this process: accumulated batches and their objects."""

    parts: int = 1
    objects: int | None = None


class _UpdateTeacher(TrainerCallback):
    """Updates the teacher after each optimizer step."""

    def __init__(self, task: DistillationTask) -> None:
        self.task = task

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **keywords: Any) -> None:
        self.task.steps = state.max_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.task.update_teacher()


def _forward_of(task: DistillationTask, step: _Step, own: Any) -> Any:
    """The model's new forward: OD-DETR's loss in training with labels, else its own."""

    def forward(
        self: Any,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        *arguments: Any,
        labels: Sequence[Mapping[str, Tensor]] | None = None,
        **keywords: Any,
    ) -> Any:
        if not self.training or labels is None:
            return own(self, pixel_values, pixel_mask, *arguments, labels=labels, **keywords)
        if next(task.teacher.parameters()).device != pixel_values.device:
            task.to(pixel_values.device)
        masked = pixel_mask is not None and task.student.knows_padding
        padding = pixel_mask == 0 if masked else torch.zeros_like(pixel_values[:, 0], dtype=torch.bool)
        truth = GroundTruth.stack([each["class_labels"] for each in labels], [each["boxes"].float() for each in labels])
        truth = truth.to(pixel_values.device)
        count = len(pixel_values)
        sizes = torch.zeros(count, 2, dtype=torch.int64)
        batch = Batch(pixel_values, padding, truth, tuple(range(count)), sizes, step.objects)
        parts = task(batch)
        # Trainer divides by the number of parts, as if each were normalised by itself.
        return ModelOutput(loss=parts.pop("loss") * step.parts, loss_dict=parts)

    return forward
