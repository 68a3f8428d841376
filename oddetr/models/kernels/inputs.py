"""Checks of a kernel's inputs, and of the context in which it is called."""

import torch
from torch import Tensor, nn


def must_stay_symbolic() -> bool:
    """Whether operators are being recorded for compilation or export."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def are_transformed() -> bool:
    """Whether the call is inside `torch.func.grad`, `vmap` and the like, which cannot trace our loops."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]: there is no public function


def are_plain_on(device: str, *tensors: Tensor) -> bool:
    """Whether our loops for this type of device can read the tensors: plain ones, all on one such device."""
    plain = all(type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == device for tensor in tensors)
    return plain and len({tensor.device for tensor in tensors}) == 1


def check_inputs(value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> None:
    """Checks that `value`, `locations`, `weights` and `shapes` (h, w of every level) fit together.

    Raises:
        ValueError: they contradict each other.
    """
    batch, tokens, heads, _ = value.shape
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[4], 2)
    if locations.shape != expected or weights.shape != expected[:-1]:
        raise ValueError(
            f"Value {tuple(value.shape)} and {len(shapes)} levels need locations {expected} and weights "
            f"{expected[:-1]}; found {tuple(locations.shape)} and {tuple(weights.shape)}."
        )
    if min(map(min, shapes)) < 1 or tokens != sum(height * width for height, width in shapes):
        raise ValueError(f"Levels of (h, w) {shapes} do not hold the {tokens} tokens of value {tuple(value.shape)}.")


def working_precision(*tensors: Tensor) -> torch.dtype:
    """float64 if any of them is, else float32.

    A location needs float32: bfloat16 would place a point only to about 1/256 of the image.
    """
    return torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32


def common_precision(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`value`, `locations` and `weights`, checked to fit together, in their `working_precision`.

    Raises:
        ValueError: the tensors and `shapes` contradict each other.
    """
    check_inputs(value, shapes, locations, weights)
    precision = working_precision(value, locations, weights)
    return value.to(precision), locations.to(precision), weights.to(precision)
