import dataclasses
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.training.config import TrainConfig
from oddetr.training.run import run
from tests.training.test_run import quiet


@pytest.mark.parametrize(
    ("flags", "gpu"), [({}, False), ({"accelerator": "cpu"}, True), ({"accelerator": "cpu", "devices": 2}, True)]
)
def test_fp16_on_a_cpu_is_refused_before_anything_is_written(
    config: TrainConfig, flags: dict, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there is a GPU that the run would not use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(dataclasses.replace(config, precision="fp16", trainer=flags), quiet())
    assert not config.out.exists()


@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on CPU.*")
def test_bf16_is_not_silently_taken_for_fp16(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the run came to be on a CPU."""
    monkeypatch.setattr("oddetr.training.plan.preparation.refuse_fp16_on_cpu", lambda *_: None)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(dataclasses.replace(config, precision="fp16"), quiet())
    assert not (config.out / "last").exists()


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


@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_layers_compute_in_the_precision_and_losses_in_fp32(
    config: TrainConfig, precision: str, expected: torch.dtype
) -> None:
    types = Types()
    trainer = config.trainer | {"callbacks": [types], "limit_train_batches": 1}
    run(dataclasses.replace(config, epochs=1, precision=precision, trainer=trainer), quiet())
    assert types.seen == {expected}
    assert types.losses == {torch.float32}
