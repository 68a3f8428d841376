"""Make the processes of a run start with equal settings and end together."""

import re
import subprocess
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.training.processes import connected, gathered

_CONNECTION_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe", re.IGNORECASE)


class SameSettings(Callback):
    """Refuse to train if the processes of a run differ in `settings`, by name."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the settings of all processes; raises ValueError in all of them."""
        first, *others = gathered(self.settings)
        for rank, other in enumerate(others, start=1):
            names = [name for name in first | other if other.get(name) != first.get(name)]
            if names:
                found = "; ".join(f"{name}: {first.get(name)} and {other.get(name)}" for name in names)
                raise ValueError(
                    f"The first process and process {rank} would not train the same: {found}. Give all the same "
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
    return connected() and isinstance(error, RuntimeError) and bool(_CONNECTION_LOST.search(str(error)))
