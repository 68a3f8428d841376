"""Make several processes of a run start with equal settings and end together."""

import re
import subprocess
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe", re.IGNORECASE)


class Agreement(Callback):
    """Refuse to train if the processes of a run differ in what must be equal.

    Args:
        facts: what must be equal in all processes, by name.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the facts of all processes.

        Raises:
            ValueError: they differ; raised in all processes.
        """
        if trainer.world_size == 1:
            return
        told: list[dict[str, Any]] = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(told, self.facts)
        for rank, facts in enumerate(told):
            names = [name for name in told[0] | facts if facts.get(name) != told[0].get(name)]
            if names:
                first = "; ".join(f"{name}: {told[0].get(name)} and {facts.get(name)}" for name in names)
                raise ValueError(
                    f"The first process and process {rank} would not train the same: {first}. Give all the same "
                    "arguments and data, and a folder (--out) that all of them see."
                )


def end_others(trainer: Trainer) -> None:
    """Kill the processes that this one started, which would wait for it. (Lightning does so only after Ctrl-C.)"""
    children: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    for child in children:
        child.kill()
        child.wait()
    children.clear()  # Lightning watches these, and would kill this process.


def lost_another(error: BaseException) -> bool:
    """Return whether this process failed because another process of the run ended."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))
