"""Deformable attention on the CPU: the numba kernel against `grid_sample` and against gathering, in one run.

    python benchmarks/deformable_attention.py --threads 1

The forms take turns, so that a busy machine slows all of them; each time is the median over the turns, in milliseconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oddetr.models.kernels.cpu import numba_attention
from oddetr.models.kernels.gather import gather_attention
from oddetr.models.kernels.reference import grid_sample_attention

FORMS = {"numba": numba_attention, "grid_sample": grid_sample_attention, "gather": gather_attention}
LEVELS = ((40, 40), (20, 20), (10, 10), (5, 5))
"""A 320 x 320 image at strides 8 to 64."""
BATCH, HEADS, POINTS = 2, 8, 4


class Inputs(NamedTuple):
    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    locations: Tensor
    weights: Tensor


def encoder_inputs(width: int) -> Inputs:
    """Every pixel of every level attends around itself, at offsets of some pixels."""
    anchors = [torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w) for h, w in LEVELS]
    return inputs_around(torch.cat(anchors).flip(-1), width)


def decoder_inputs(width: int, queries: int = 300) -> Inputs:
    """Queries attend around places all over the image."""
    return inputs_around(torch.rand(queries, 2), width)


def inputs_around(anchors: Tensor, width: int) -> Inputs:
    """Points at normal offsets of 2.5 pixels of their level around `anchors` [queries, 2]; weights that sum to 1."""
    extent = torch.tensor([(w, h) for h, w in LEVELS])[:, None]
    offsets = torch.randn(BATCH, len(anchors), HEADS, len(LEVELS), POINTS, 2) * 2.5 / extent
    weights = torch.randn(BATCH, len(anchors), HEADS, len(LEVELS) * POINTS).softmax(dim=-1)
    return Inputs(
        torch.randn(BATCH, sum(h * w for h, w in LEVELS), HEADS, width).requires_grad_(),
        LEVELS,
        (anchors[:, None, None, None] + offsets).requires_grad_(),
        weights.unflatten(-1, (len(LEVELS), POINTS)).requires_grad_(),
    )


def forward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    with torch.no_grad():
        form(*inputs)


def forward_and_backward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    output = form(*inputs)
    torch.autograd.grad(output, (inputs.value, inputs.locations, inputs.weights), torch.ones_like(output))


def medians(work: Callable[..., None], inputs: Inputs, repeats: int) -> list[float]:
    """Milliseconds of every form; a turn before the first compiles and warms up."""
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(repeats + 1):
        for name, form in FORMS.items():
            start = time.perf_counter()
            work(form, inputs)
            times[name].append((time.perf_counter() - start) * 1e3)
    return [statistics.median(found[1:]) for found in times.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each form; default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    cases = {
        "encoder, 2125 queries, 8 x 32": encoder_inputs(width=32),
        "encoder, 2125 queries, 8 x 16": encoder_inputs(width=16),
        "decoder, 300 queries, 8 x 32": decoder_inputs(width=32),
        "decoder, 300 queries, 8 x 16": decoder_inputs(width=16),
    }
    print(f"batch {BATCH}, levels {LEVELS}, {POINTS} points, {arguments.threads} threads; ms (times numba's)\n")
    print(f"{'':30} {'pass':20}" + "".join(f"{name:>20}" for name in FORMS))
    for case, inputs in cases.items():
        for work in (forward, forward_and_backward):
            times = medians(work, inputs, arguments.repeats)
            cells = "".join(f"{ms:12.1f} ({ms / times[0]:4.1f}x)" for ms in times)
            print(f"{case:30} {work.__name__.replace('_', ' '):20}{cells}", flush=True)


if __name__ == "__main__":
    main()
