"""Dropout on the CPU by loops of our own: torch draws 8 numbers in the time in which these drop 100, and keeps them."""

from typing import Any, no_type_check

import numba
import numpy as np
import torch
from torch import Tensor

from oddetr.models.kernels.compiled import compiled, compiled_inline, compiled_parallel, share_among_threads


def numba_dropout(x: Tensor, p: float, relu: bool) -> Tensor:
    """`dropout_` in training, in the memory of `x`."""
    return NumbaDropout.apply(x, p, relu)


def trial(device: str) -> None:
    """See `own_form`. Leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        x = torch.ones(8, device=device).requires_grad_()
        numba_dropout(numba_dropout(x * 1, 0.5, True), 0.5, False).sum().backward()


class NumbaDropout(torch.autograd.Function):
    """(x, p, relu) -> `dropout_` in training; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, ctx.p, ctx.relu = arguments
        ctx.seed = torch.randint(2**32, (2,), device="cpu").tolist()
        # Not marked as changed: what `nn.Linear` gives is a view, and a marked view's gradient is copied three times.
        output = _drop(x.detach(), ctx.p, ctx.relu, ctx.seed)
        if ctx.relu:
            ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        if ctx.relu:
            passed = _pass_back(ctx.saved_tensors[0], gradient, ctx.p)
        elif torch.is_grad_enabled():
            passed = gradient * _drop(torch.ones_like(gradient), ctx.p, False, ctx.seed)
        else:
            passed = _drop(gradient.clone(), ctx.p, False, ctx.seed)
        return passed, None, None


def _drop(x: Tensor, p: float, relu: bool, seed: list[int]) -> Tensor:
    """In place."""
    values = x.detach().view(-1).numpy()
    threshold, scale = np.uint32(p * 2**32), values.dtype.type(1 / (1 - p))
    arguments = [values, relu, *map(np.uint32, seed), threshold, scale]
    share_among_threads(_drop_serial, _drop_parallel, arguments, x.numel(), x.numel())
    return x


def _pass_back(output: Tensor, gradient: Tensor, p: float) -> Tensor:
    """Through ReLU and dropout: where the output is not 0."""
    if torch.is_grad_enabled():
        return gradient * (output.detach() != 0) / (1 - p)
    passed = torch.empty_like(gradient)
    arrays = [each.detach().view(-1).numpy() for each in (output, gradient, passed)]
    arguments = [*arrays, arrays[0].dtype.type(1 / (1 - p))]
    share_among_threads(_pass_serial, _pass_parallel, arguments, output.numel(), output.numel())
    return passed


@compiled_inline
@no_type_check
def _random(place, seed, key):
    """32 random bits of a place: the hash lowbias32 of C. Wellons (public domain), with a key between its rounds."""
    u = np.uint32
    bits = u(u(place) + seed)
    bits = u(bits ^ u(bits >> u(16)))
    bits = u(bits * u(0x7FEB352D))
    bits = u(bits ^ key)
    bits = u(bits ^ u(bits >> u(15)))
    bits = u(bits * u(0x846CA68B))
    return u(bits ^ u(bits >> u(16)))


@compiled
@no_type_check
def _drop_serial(values, relu, seed, key, threshold, scale, first, last):
    """In place, from `first` to before `last`; NaN stays NaN."""
    zero = values.dtype.type(0)
    part = values[first:last]
    for i in range(len(part)):
        value = part[i]
        kept = scale if _random(first + i, seed, key) >= threshold else zero
        part[i] = (zero if relu and value <= zero else value) * kept


@compiled
@no_type_check
def _pass_serial(output, gradient, passed, scale, first, last):
    """Fills `passed` from `first` to before `last`."""
    zero = output.dtype.type(0)
    seen, wanted, result = output[first:last], gradient[first:last], passed[first:last]
    for i in range(len(seen)):
        result[i] = wanted[i] * scale if seen[i] != zero else zero


@compiled_parallel
@no_type_check
def _drop_parallel(values, relu, seed, key, threshold, scale, threads):
    """`_drop_serial` of all places."""
    for thread in numba.prange(threads):
        first, last = len(values) * thread // threads, len(values) * (thread + 1) // threads
        _drop_serial(values, relu, seed, key, threshold, scale, first, last)


@compiled_parallel
@no_type_check
def _pass_parallel(output, gradient, passed, scale, threads):
    """`_pass_serial` of all places."""
    for thread in numba.prange(threads):
        first, last = len(output) * thread // threads, len(output) * (thread + 1) // threads
        _pass_serial(output, gradient, passed, scale, first, last)
