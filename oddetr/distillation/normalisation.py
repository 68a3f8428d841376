"""What sums over a batch are divided by, so that gradients are as if one process held all images of the step."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from oddetr.structures import Batch


def objects_per_process(batch: Batch) -> Float[Tensor, ""]:
    """max(objects in all parts of the step on all processes, 1) / processes, since gradients are averaged over
    processes."""
    own = batch.truth.total if batch.step_objects is None else batch.step_objects
    objects, processes = _over_processes(torch.full((), float(own), device=batch.images.device))
    return objects.clamp(min=1) / processes


def _over_processes(value: Tensor) -> tuple[Tensor, int]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return value, 1
    distributed.all_reduce(value)
    return value, distributed.get_world_size()
