"""Make Lightning's Trainer from a run's configuration, and silence its advice."""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from oddetr.common.durable import open_new
from oddetr.training.config import TrainConfig
from oddetr.training.precision import LIGHTNINGS
from oddetr.training.processes import launched, several_processes

_ADVICE = (
    ".*GPU available but not used.*",
    ".*fp16 is not supported on CPU.*",
    ".*does not have many workers.*",
    ".*`broadcast_buffers` is deprecated.*",
    ".*module.s. in eval mode at the start of training.*",
    ".*your dataloader is not resumable.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
    ".*Grad strides do not match bucket view strides.*",
)
_LOUD = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.loggers.mlflow": logging.ERROR,
    "mlflow.store.db.utils": logging.ERROR,
    "alembic": logging.ERROR,
}
"""Python loggers, and the level from which their messages are shown."""


class StateFile(TorchCheckpointIO):
    """Write the state of a training directly to its place. Lightning's own writer goes through memory and a temporary
    file, which a killed process leaves behind."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the file `path`."""
        with open_new(Path(path)) as stream:
            torch.save(checkpoint, stream)


def make_trainer(config: TrainConfig, callbacks: Sequence[Callback]) -> Trainer:
    """Make the Trainer of a run: on CUDA if there is a device, else on the CPU, unless its flags say otherwise.

    Raises:
        ValueError: Lightning refuses the flags, which are named; or takes bf16 in the place of fp16, as on a CPU.
    """
    flags: dict[str, Any] = {
        "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
        "max_epochs": config.epochs,
        **launched(),
        "precision": LIGHTNINGS[config.precision or "fp32"],
        "accumulate_grad_batches": config.accumulate,
        "check_val_every_n_epoch": config.validate_every,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "strategy": DDPStrategy(broadcast_buffers=False) if several_processes(config.trainer) else "auto",
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "plugins": [StateFile()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    flags |= config.trainer
    flags["callbacks"] = [*callbacks, *flags.get("callbacks", [])]
    try:
        trainer = Trainer(**flags)
    except Exception as error:  # of any kind: Lightning compares and converts the flags' values
        given = " ".join(f"--trainer.{name} {value}" for name, value in config.trainer.items())
        advice = " Correct this, or leave it out." if given else ""
        reason = str(error).rstrip(".")
        raise ValueError(f"Lightning refuses {given or 'to train here'}: {reason}.{advice}") from error
    if config.precision == "fp16" and trainer.precision != LIGHTNINGS["fp16"]:
        raise ValueError("fp16 needs a GPU; there is none here. On a CPU use fp32, or bf16 to save memory.")
    return trainer


def check_flags(config: TrainConfig) -> None:
    """Check Lightning's flags before anything is read or written; the number of epochs may still be open.

    Raises:
        ValueError: see `make_trainer`.
    """
    with quiet():
        filled = {"hours": None, "epochs": config.epochs or 1, "validate_every": config.validate_every or 1}
        make_trainer(replace(config, **filled), ())


@contextmanager
def quiet() -> Generator[None]:
    """Silence the advice of Lightning and MLflow on what is chosen here; their other warnings and errors are shown."""
    before = {name: logging.getLogger(name).level for name in _LOUD}
    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
