"""Adapt the training task to Lightning."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from oddetr.data.batches import AccumulatedLoader, mixed_seed
from oddetr.data.dataset import Source
from oddetr.distillation.task import DistillationTask
from oddetr.evaluation.validation import Validation
from oddetr.losses.matching import NonFiniteCostError
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Weights
from oddetr.training.config import OptimizerConfig, chosen
from oddetr.training.processes import share_from_first
from oddetr.training.safety.nonfinite import Place, StepWatch

AGREE_EVERY = 20
"""Steps after which several processes synchronise the statistics of batch norms, and whether to save or to stop."""


def parameter_groups(task: DistillationTask, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The parameters that learn, by learning rate: backbone, sampling places, and all others."""
    backbone = {id(parameter) for parameter in task.student.backbone.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"main": [], "backbone": [], "places": []}
    for name, parameter in task.learned():
        if parameter.requires_grad:
            slow = any(layer in name.split(".") for layer in task.student.sampling_layers)
            groups["backbone" if id(parameter) in backbone else "places" if slow else "main"].append(parameter)
    rate = chosen(config.learning_rate)
    rates = {"main": 1.0, "backbone": chosen(config.backbone_factor), "places": config.places_factor}
    return [{"name": name, "params": group, "lr": rate * rates[name]} for name, group in groups.items() if group]


def running_statistics(task: DistillationTask) -> list[Tensor]:
    """Return the running statistics of student and teacher, which each process computes from its own images."""
    pairs = zip(task.student.modules(), task.teacher.detector.modules(), strict=True)
    norms = [norm for pair in pairs if isinstance(pair[0], nn.modules.batchnorm._BatchNorm) for norm in pair]  # pyright: ignore[reportPrivateUsage]
    return [buffer for norm in norms for buffer in norm.buffers()]


class TrainingModule(LightningModule):
    """Run the steps, the validation of teacher and student, and the optimizer of one run.

    Attributes:
        validation: of teacher and student; holds the last scores.
        scored_epoch: the epoch, from 1, of these scores; 0 before the first.

    Args:
        watch: checks that the steps of its task are finite.
        source: the validation data.
        seed: dropout is a function of (seed, epoch, batch, process), so that a resumed run equals an uninterrupted one.
    """

    def __init__(self, watch: StepWatch, optimizer_config: OptimizerConfig, source: Source, seed: int) -> None:
        super().__init__()
        self.task = task = watch.task
        self.watch, self.optimizer_config = watch, optimizer_config
        self.validation = Validation(source, self.detectors, task.matching)
        self.seed = seed
        self.scored_epoch = 0

    @property
    def detectors(self) -> dict[Weights, Detector]:
        """The detectors that are validated and saved."""
        return {"teacher": self.task.teacher.detector, "student": self.task.student}

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        """Make the optimizer's step and the teacher's after it, or neither if the step is not finite. Several processes
        take the statistics of batch norms from the first one now and then, and before each validation.

        Raises:
            FloatingPointError: loss or gradient is not finite: names step, images and what it is; see `StepWatch`.
        """
        super().optimizer_step(*arguments, **keywords)
        if self.watch.end_step(getattr(self.trainer.precision_plugin, "scaler", None)):
            self.task.update_teacher(finite=True)
        else:
            self.task.skip_step()
        if self.trainer.world_size > 1 and (self.trainer.is_last_batch or (self.global_step + 1) % AGREE_EVERY == 0):
            share_from_first(running_statistics(self.task))

    def on_train_start(self) -> None:
        """Start the watch; a run resumed within an epoch skips the batches that it has trained on."""
        self.watch.start()
        self.on_train_epoch_start()
        loop = self.trainer.fit_loop
        if loop.restarted_mid_epoch:
            cast(AccumulatedLoader, self.trainer.train_dataloader).skip(loop.epoch_loop.batch_progress.current.ready)

    def on_train_epoch_start(self) -> None:
        """Validate the last epoch whatever the period."""
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this step as a function of its place in the run."""
        seed = mixed_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        self.watch.start_batch(batch, Place(self.global_step, self.current_epoch, batch_idx, self.global_rank, seed))
        torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss times the number of accumulated batches, by which Lightning divides: it is normalised by the
        objects of all of them already."""
        try:
            parts = self.task(batch)
            loss = self.watch.loss(parts)
        except NonFiniteCostError as error:
            parts = error.found
            loss = self.watch.loss(parts, error)
        return parts | {"loss": loss * self.trainer.accumulate_grad_batches}

    def on_after_backward(self) -> None:
        """Report the end of each accumulated batch to the watch."""
        if self.trainer.accumulate_grad_batches > 1:
            self.watch.end_batch()

    def on_validation_epoch_start(self) -> None:
        self.validation.start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the detections of teacher and student.

        Raises:
            FloatingPointError: a detector predicts NaN or infinity; names the epoch and the images.
        """
        try:
            self.validation.add(batch)
        except NonFiniteCostError as error:
            ids = ", ".join(str(batch.image_ids[index]) for index in error.images)
            where = f"Validation after epoch {self.current_epoch + 1}, images with the ids {ids}"
            raise FloatingPointError(f"{where}: {error}") from error

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validation.finish(self.trainer.world_size)
            self.scored_epoch = self.current_epoch + 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the last validation's matching, and the number of skipped steps."""
        checkpoint["matching"] = self.validation.state()
        checkpoint["non_finite"] = self.watch.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them; checkpoints of oddetr 0.1 may lack the latter."""
        self.validation.load(checkpoint["matching"])
        self.watch.load(checkpoint.get("non_finite", {}))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Make AdamW, fused except in fp16, where gradients are unscaled before clipping, and its schedule by step; set
        the length of the run in the task."""
        fused = self.trainer.precision != "16-mixed"
        groups = parameter_groups(self.task, self.optimizer_config)
        optimizer = AdamW(groups, weight_decay=self.optimizer_config.weight_decay, fused=fused)
        self.task.steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = LambdaLR(optimizer, lambda step: self.optimizer_config.factor(step, self.task.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip the norm of the whole gradient, which Lightning has unscaled. (Its own clipping refuses fused AdamW.)"""
        self.watch.clip_gradient(optimizer, self.optimizer_config.clip, scaled=self.trainer.precision == "16-mixed")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)
