import dataclasses
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.training.config import TrainConfig
from oddetr.training.run import run
from tests.training.helpers import quiet


def test_fp16_on_a_cpu_is_refused_before_anything_is_written(config: TrainConfig) -> None:
    """Lightning would take bf16 instead."""
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(dataclasses.replace(config, precision="fp16"), quiet())
    assert not config.out.exists()


class Types(Callback):
    """The types of what the encoder's and decoder's linear layers give in training, and of the loss."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()
        self.losses: set[torch.dtype] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for part in (pl_module.task.student.encoder, pl_module.task.student.decoder.layers):
            for module in part.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_hook(lambda module, inputs, output: self.seen.add(output.dtype))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.add(outputs["loss"].dtype)


def test_layers_compute_in_bf16_and_losses_in_fp32(config: TrainConfig) -> None:
    types = Types()
    trainer = config.trainer | {"callbacks": [types], "limit_train_batches": 1}
    detector = config.detector | {"variant": "dino"}
    run(dataclasses.replace(config, epochs=1, precision="bf16", detector=detector, trainer=trainer), quiet())
    assert types.seen == {torch.bfloat16}
    assert types.losses == {torch.float32}
