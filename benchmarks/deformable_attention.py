"""Deformable attention: our own loops against `grid_sample` and against gathering, in one run.

    python benchmarks/deformable_attention.py --threads 1
    python benchmarks/deformable_attention.py --device cuda --dtype bfloat16

The forms take turns, so that a busy machine slows all of them; each time is the median over the turns, in milliseconds.
On a GPU the last column says what share of the card's bandwidth our own loops reach, if each input were read and each
result written once; the card's is that of copying a large tensor in the same run. `--dtype` is that of the values and
the weights; locations are float32, as in training under autocast.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oddetr.models.kernels import deformable_attention
from oddetr.models.kernels.gather import gather_attention
from oddetr.models.kernels.reference import grid_sample_attention

FORMS = {"ours": deformable_attention, "grid_sample": grid_sample_attention, "gather": gather_attention}
BATCH, HEADS, POINTS = 2, 8, 4


class Inputs(NamedTuple):
    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    locations: Tensor
    weights: Tensor


class Setting(NamedTuple):
    """Where, how precisely and on what levels: those of a square image at strides 8 to 64."""

    device: str
    dtype: torch.dtype
    image_size: int

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        return tuple((-(-self.image_size // stride),) * 2 for stride in (8, 16, 32, 64))


def encoder_inputs(setting: Setting, width: int) -> Inputs:
    """Every pixel of every level attends around itself, at offsets of some pixels."""
    anchors = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w) for h, w in setting.levels
    ]
    return inputs_around(torch.cat(anchors).flip(-1), setting, width)


def decoder_inputs(setting: Setting, width: int, queries: int = 300) -> Inputs:
    """Queries attend around places all over the image."""
    return inputs_around(torch.rand(queries, 2), setting, width)


def inputs_around(anchors: Tensor, setting: Setting, width: int) -> Inputs:
    """Points at normal offsets of 2.5 pixels of their level around `anchors` [queries, 2]; weights that sum to 1."""
    levels = setting.levels
    extent = torch.tensor([(w, h) for h, w in levels])[:, None]
    offsets = torch.randn(BATCH, len(anchors), HEADS, len(levels), POINTS, 2) * 2.5 / extent
    weights = torch.randn(BATCH, len(anchors), HEADS, len(levels) * POINTS).softmax(dim=-1)
    value = torch.randn(BATCH, sum(h * w for h, w in levels), HEADS, width)
    return Inputs(
        value.to(setting.device, setting.dtype).requires_grad_(),
        levels,
        (anchors[:, None, None, None] + offsets).to(setting.device).requires_grad_(),
        weights.unflatten(-1, (len(levels), POINTS)).to(setting.device, setting.dtype).requires_grad_(),
    )


def forward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    with torch.no_grad():
        form(*inputs)


def forward_and_backward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    output = form(*inputs)
    torch.autograd.grad(output, (inputs.value, inputs.locations, inputs.weights), torch.ones_like(output))


def milliseconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def medians(work: Callable[..., None], inputs: Inputs, repeats: int, device: str) -> list[float]:
    """Milliseconds of every form; a turn before the first compiles and warms up."""
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(repeats + 1):
        for name, form in FORMS.items():
            times[name].append(milliseconds(lambda form=form: work(form, inputs), device))
    return [statistics.median(found[1:]) for found in times.values()]


def bytes_of(work: Callable[..., None], inputs: Inputs) -> int:
    """Of reading each input and writing each result once."""
    size = inputs.value.element_size()
    output = inputs.weights.shape[:3].numel() * inputs.value.shape[-1] * size
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in (inputs.value, inputs.locations, inputs.weights))
    # Backward reads the inputs and the output's gradient, and writes three gradients, the value's in float32.
    backward = 2 * tensors + output + inputs.value.numel() * (4 - size)
    return tensors + output + (backward if work is forward_and_backward else 0)


def copying_bandwidth(repeats: int) -> float:
    """Bytes in a millisecond of copying half a GiB on the GPU: read and written."""
    source = torch.zeros(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [milliseconds(lambda: target.copy_(source), "cuda") for _ in range(repeats + 1)]
    return 2 * source.numel() / statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each form; default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--image-size", type=int, default=320, help="pixels; default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    setting = Setting(arguments.device, getattr(torch, arguments.dtype), arguments.image_size)
    cases = {
        f"{room}, 8 x {width}": make(setting, width)
        for room, make in (("encoder", encoder_inputs), ("decoder", decoder_inputs))
        for width in (32, 16)
    }
    where = torch.cuda.get_device_name() if setting.device == "cuda" else f"{arguments.threads} threads"
    print(f"batch {BATCH}, levels {setting.levels}, {POINTS} points, {arguments.dtype}, {where}; ms (times ours)\n")
    bandwidth = copying_bandwidth(arguments.repeats) if setting.device == "cuda" else None
    columns = [*FORMS, *(["of bandwidth"] if bandwidth else [])]
    print(f"{'':30} {'pass':20}" + "".join(f"{name:>20}" for name in columns))
    for case, inputs in cases.items():
        for work in (forward, forward_and_backward):
            times = medians(work, inputs, arguments.repeats, setting.device)
            cells = "".join(f"{ms:12.2f} ({ms / times[0]:4.1f}x)" for ms in times)
            if bandwidth:
                cells += f"{bytes_of(work, inputs) / times[0] / bandwidth:19.0%} "
            name = f"{case}, {inputs.weights.shape[1]} queries"
            print(f"{name:30} {work.__name__.replace('_', ' '):20}{cells}", flush=True)


if __name__ == "__main__":
    main()
