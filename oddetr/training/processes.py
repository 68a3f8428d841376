"""Count the processes of a run, find the first, and gather what they have."""

import os
from typing import Any

import torch
from torch import Tensor, distributed

MESSAGE_BYTES = 250 << 20
"""The most that is sent at once, as in torch's DDP."""


def is_first_process() -> bool:
    """Return whether this is the process that writes and prints: the first of the first node."""
    if int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0) > 0:
        return False
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return int(next((rank for rank in ranks if rank), "0")) == 0


def process_count(trainer_flags: dict[str, Any]) -> int:
    """Count the processes that Lightning's flags or a launcher such as torchrun start; each has one device.

    Values that are no numbers count as one, since Lightning refuses them (see `trainer.check_flags`).
    """
    devices = trainer_flags.get("devices", 1)
    if str(devices) in ("auto", "-1"):
        devices = max(1, torch.cuda.device_count())
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    count = len(devices) if isinstance(devices, list) else _number(devices)
    return max(count * _number(trainer_flags.get("num_nodes", 1)), int(os.environ.get("WORLD_SIZE") or 1))


def _number(value: Any) -> int:
    return int(value) if str(value).isdecimal() else 1


def several_processes(trainer_flags: dict[str, Any]) -> bool:
    """Return whether a run has more than one process."""
    return process_count(trainer_flags) > 1


def connected() -> bool:
    """Return whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in their order; all of them call it."""
    if not connected():
        return [value]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def share_from_first(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` by the first process's, packed into one message for each type; all processes call it."""
    group = distributed.group.WORLD
    if tensors and group:
        # As torch's own DDP does with its buffers.
        distributed._broadcast_coalesced(group, tensors, MESSAGE_BYTES, 0)  # pyright: ignore[reportPrivateUsage]


def launched() -> dict[str, int]:
    """Return Lightning's flags for the processes that torchrun has started; one device without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {"devices": 1}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": here, "num_nodes": int(os.environ["WORLD_SIZE"]) // here}
