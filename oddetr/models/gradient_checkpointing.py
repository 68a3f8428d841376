"""Gradient checkpointing: parts of a detector whose inside is computed again in the backward pass, not kept for it
(Chen et al. 2016, Training deep nets with sublinear memory cost, arXiv 1604.06174)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module) -> None:
    """Keep only the arguments of `module`'s forward pass for its backward pass; the gradients are the same.

    A deep copy of the module does likewise. Random numbers and autocast are those of the first pass, and batch norms
    count a batch in their running statistics once. Without gradients nothing is kept anyway.
    """
    forward = partial(_checkpointed, module, module.forward)
    setattr(module, "forward", forward)  # noqa: B010


def checkpointed_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost lists in `module` that have parts themselves: the stages of a backbone, the layers
    of encoder and decoder, projections, heads."""
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    for child in module.children():
        if not is_list:
            yield from checkpointed_parts(child)
        elif any(True for _ in child.children()):  # a lone activation may change its argument in place
            yield child


def _checkpointed(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _KeptStatistics(module)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


class _KeptStatistics(AbstractContextManager[None]):
    """Within it batch norms leave their running statistics, which have counted the batch, as they are."""

    def __init__(self, module: nn.Module) -> None:
        norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
        self._before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]

    def __enter__(self) -> None:
        for norm, _, _ in self._before:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, momentum, count in self._before:
            norm.momentum, norm.num_batches_tracked = momentum, count
