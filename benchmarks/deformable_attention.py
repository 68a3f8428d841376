"""Deformable attention: our own loops against `grid_sample` and against gathering, in one run.

    python benchmarks/deformable_attention.py --threads 1
    python benchmarks/deformable_attention.py --device cuda --dtype bfloat16

On a GPU the floor is the time in which each input could be read and each result written once, at the bandwidth of
copying a large tensor in the same run. Small inputs fit the card's cache, which is faster: take `--image-size
800`. `--dtype` is that of the values; locations and weights are float32, as in training under autocast.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import timing
import torch
from torch import Tensor

from oddetr.models.kernels import deformable_attention
from oddetr.models.kernels.operators import gather_attention, grid_sample_attention

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
        weights.unflatten(-1, (len(levels), POINTS)).to(setting.device).requires_grad_(),
    )


def forward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    with torch.no_grad():
        form(*inputs)


def forward_and_backward(form: Callable[..., Tensor], inputs: Inputs) -> None:
    output = form(*inputs)
    torch.autograd.grad(output, (inputs.value, inputs.locations, inputs.weights), torch.ones_like(output))


def bytes_of(work: Callable[..., None], inputs: Inputs) -> int:
    """Of reading each input and writing each result once."""
    size = inputs.value.element_size()
    output = inputs.weights.shape[:3].numel() * inputs.value.shape[-1] * size
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in (inputs.value, inputs.locations, inputs.weights))
    # Backward reads the inputs and the output's gradient, and writes three gradients.
    backward = 2 * tensors + output
    return tensors + output + (backward if work is forward_and_backward else 0)


def copying_bandwidth(rounds: int) -> float:
    """Bytes in a millisecond of copying half a GiB on the GPU: read and written."""
    source = torch.zeros(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = timing.in_turns({"copy": lambda: target.copy_(source)}, rounds, device="cuda")["copy"]
    return 2 * source.numel() / copy


def main() -> None:
    parser = timing.parser(__doc__, rounds=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--image-size", type=int, default=320, help="pixels; default: %(default)s")
    parser.add_argument("--width", type=int, default=32, help="of a head; there are 8; default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    setting = Setting(arguments.device, getattr(torch, arguments.dtype), arguments.image_size)
    where = torch.cuda.get_device_name() if setting.device == "cuda" else f"{arguments.threads} thread(s)"
    rows: list[timing.Row] = []
    for room, make in (("encoder", encoder_inputs), ("decoder", decoder_inputs)):
        inputs = make(setting, arguments.width)
        for work in (forward, forward_and_backward):
            forms = {name: partial(work, form, inputs) for name, form in FORMS.items()}
            times = timing.in_turns(forms, arguments.rounds, device=setting.device)
            what = f"deformable attention, {room}, {inputs.weights.shape[1]} queries, {work.__name__.replace('_', ' ')}"
            what += f", {arguments.dtype}, {where}"
            floor = bytes_of(work, inputs) / copying_bandwidth(arguments.rounds) if setting.device == "cuda" else None
            rows += [timing.Row(what, times["ours"], peer, times[peer], floor) for peer in ("grid_sample", "gather")]
    timing.show(rows, arguments.json)


if __name__ == "__main__":
    main()
