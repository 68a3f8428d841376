"""What the forms of a kernel ask of their inputs, and of where they are called."""

import torch
from torch import Tensor, nn


def must_stay_symbolic() -> bool:
    """Whether operators are being recorded for compilation or export."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def are_transformed() -> bool:
    """Whether the call is inside `torch.func.grad`, `vmap` and the like, which cannot look into loops of our own."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]: there is no public question


def are_plain_on_cpu(*tensors: Tensor) -> bool:
    """Whether loops of our own can read the tensors' numbers."""
    return all(type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" for tensor in tensors)


def common_precision(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`value`, `locations` and `weights`, checked to fit together, in float64 if any of them is, else in float32.

    A location needs float32: bfloat16 would place a point only to about 1/256 of the image.

    Raises:
        ValueError: the tensors and `shapes` (h, w of every level) contradict each other.
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
    double = torch.float64 in (value.dtype, locations.dtype, weights.dtype)
    precision = torch.float64 if double else torch.float32
    return value.to(precision), locations.to(precision), weights.to(precision)
