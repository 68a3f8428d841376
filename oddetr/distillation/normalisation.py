"""The normaliser of the losses, which makes gradients independent of how a step is split over processes and batches."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from oddetr.structures import Batch


class ObjectCount:
    """max(objects of the whole optimizer step over all processes, 1) / processes.

    The number of processes cancels the averaging of gradients over processes. The sum over processes starts here, when
    the batch arrives, and runs while the detector computes: no process waits for the slowest in mid-forward.

    Args:
        batch: of this process; all processes count one, in the same order.
    """

    def __init__(self, batch: Batch) -> None:
        own = batch.truth.total if batch.step_objects is None else batch.step_objects
        self._objects = torch.full((), float(own), device=batch.images.device)
        self._sum, self._processes = None, 1
        if distributed.is_available() and distributed.is_initialized():
            self._sum = distributed.all_reduce(self._objects, async_op=True)
            self._processes = distributed.get_world_size()

    def per_process(self) -> Float[Tensor, ""]:
        """The normaliser, once all processes have added their objects. On a GPU only its stream waits, not the host."""
        if self._sum:
            self._sum.wait()
        return self._objects.clamp(min=1) / self._processes
