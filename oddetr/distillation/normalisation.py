"""The normaliser of the losses, which makes gradients independent of how a step is split over processes and batches."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from oddetr.structures import Batch


def objects_per_process(batch: Batch) -> Float[Tensor, ""]:
    """max(objects of the whole optimizer step over all processes, 1) / processes.

    The number of processes cancels the averaging of gradients over processes.
    """

    own = batch.truth.total if batch.step_objects is None else batch.step_objects
    objects, processes = _over_processes(torch.full((), float(own), device=batch.images.device))
    return objects.clamp(min=1) / processes


def _over_processes(value: Tensor) -> tuple[Tensor, int]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return value, 1
    distributed.all_reduce(value)
    return value, distributed.get_world_size()
