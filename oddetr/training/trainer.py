"""Lightning's Trainer, made of a run's configuration, and what of its talk is heard."""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from oddetr.training.config import TrainConfig
from oddetr.training.precision import LIGHTNINGS
from oddetr.training.processes import launched, several_processes
from oddetr.training.safety.state import StateFile

_ADVICE = (
    ".*GPU available but not used.*",
    ".*does not have many workers.*",
    ".*`broadcast_buffers` is deprecated.*",
    ".*module.s. in eval mode at the start of training.*",
    ".*your dataloader is not resumable.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
    ".*Grad strides do not match bucket view strides.*",
)


def make_trainer(config: TrainConfig, callbacks: Sequence[Callback]) -> Trainer:
    """The Trainer of a run, on a CUDA device where there is one and else on the CPU, unless its flags say otherwise.

    Raises:
        ValueError: Lightning refuses the flags; names them.
    """
    flags: dict[str, Any] = {
        "accelerator": "cuda" if torch.cuda.is_available() else "cpu",
        "max_epochs": config.epochs,
        **launched(),
        "precision": LIGHTNINGS[config.precision],
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
        return Trainer(**flags)
    except Exception as error:  # of any kind: Lightning compares and converts what it is given
        given = " ".join(f"--trainer.{name} {value}" for name, value in config.trainer.items())
        advice = " Correct this, or leave it out." if given else ""
        reason = str(error).rstrip(".")
        raise ValueError(f"Lightning refuses {given or 'to train here'}: {reason}.{advice}") from error


def check_flags(config: TrainConfig) -> None:
    """Before anything is read or written, and while epochs may be open.

    Raises:
        ValueError: see `make_trainer`.
    """
    with quiet():
        make_trainer(replace(config, epochs=config.epochs or 1, validate_every=config.validate_every or 1), ())


@contextmanager
def quiet() -> Generator[None]:
    """Keeps Lightning's advice on things that are chosen here to itself; its warnings and errors are heard."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
