"""A thin adapter of the training task to Lightning."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from oddetr.data.batches import mixed_seed
from oddetr.data.dataset import Source
from oddetr.detections import Detections
from oddetr.evaluation import Metrics, evaluate_detections
from oddetr.inference import postprocess
from oddetr.matching import NonFiniteCostError
from oddetr.structures import Batch
from oddetr.task import DetectionTask
from oddetr.training.config import OptimizerConfig

SLOW = ("sampling_offsets", "reference_points")
"""Parameters with a tenth of the learning rate, as officially: what moves the places that queries read."""


def parameter_groups(detector: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The detector's parameters that learn, by learning rate: backbone, places to read, and all others."""
    groups: dict[str, list[nn.Parameter]] = {"main": [], "backbone": [], "places": []}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            slow = any(part in name.split(".") for part in SLOW)
            groups["backbone" if name.startswith("backbone.") else "places" if slow else "main"].append(parameter)
    rates = {"main": 1.0, "backbone": config.backbone_factor, "places": 0.1}
    return [
        {"name": name, "params": parameters, "lr": config.learning_rate * rates[name]}
        for name, parameters in groups.items()
        if parameters
    ]


class TrainingModule(LightningModule):
    """Steps, validation and optimizer of one run.

    Attributes:
        metrics: scores of the last validation.
        scored_epoch: the epoch, from 1, after which they were computed; 0 before the first.

    Args:
        task: computes the loss of a batch.
        optimizer_config: learning rate and schedule.
        validation: what to validate on.
        seed: dropout is a function of (seed, epoch, batch, process), so that a resumed run goes on as if not stopped.
    """

    def __init__(self, task: DetectionTask, optimizer_config: OptimizerConfig, validation: Source, seed: int) -> None:
        super().__init__()
        self.task = task
        self.optimizer_config = optimizer_config
        self.validation = validation
        self.seed = seed
        self.metrics: Metrics | None = None
        self.scored_epoch = 0
        self._found: dict[int, Detections] = {}

    def on_train_epoch_start(self) -> None:
        """The last epoch is validated whatever the period."""
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes this step's randomness a function of its place in the run."""
        torch.manual_seed(mixed_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss; Lightning divides it by the accumulated batches, whose objects its sums are divided by already.

        Raises:
            FloatingPointError: the detector predicts NaN or infinity; names the step and the images.
        """
        try:
            parts = self.task(batch)
        except NonFiniteCostError as error:
            ids = ", ".join(str(batch.image_ids[index]) for index in error.images)
            raise FloatingPointError(f"Step {self.global_step}, images with the ids {ids}: {error}") from error
        return parts | {"loss": parts["loss"] * self.trainer.accumulate_grad_batches}

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation's detections."""
        self._found = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects detections."""
        predictions = self.task.detector(batch.images, batch.padding_mask)
        self._found.update(zip(batch.image_ids, postprocess(predictions, batch.original_sizes), strict=True))

    def on_validation_epoch_end(self) -> None:
        """Scores the detections of all processes; every process computes the same."""
        if self.trainer.world_size > 1:
            gathered: list[dict[int, Detections]] = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self._found)
            self._found = {image: found for part in gathered for image, found in part.items()}
        if not self.trainer.sanity_checking:
            self.metrics = evaluate_detections(self.validation.annotations(), self.validation.classes, self._found)
            self.scored_epoch = self.current_epoch + 1
        self._found = {}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and its schedule by step. Fused, except in fp16, where gradients are unscaled before clipping."""
        fused = self.trainer.precision != "16-mixed"
        optimizer = AdamW(
            parameter_groups(self.task.detector, self.optimizer_config),
            weight_decay=self.optimizer_config.weight_decay,
            fused=fused,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = LambdaLR(optimizer, lambda step: self.optimizer_config.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clips the whole gradient's norm, which Lightning has unscaled. (Its own clipping refuses fused AdamW.)"""
        if self.optimizer_config.clip:
            nn.utils.clip_grad_norm_(self.task.parameters(), self.optimizer_config.clip)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch, without waiting for it."""
        return batch.to(device, non_blocking=True)

    @property
    def learning_rate(self) -> float:
        """Of the main parameters, now."""
        return cast(Optimizer, self.optimizers()).param_groups[0]["lr"]
