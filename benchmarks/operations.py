"""How many operations a training step gives to its device, and how many of them only change a precision.

python benchmarks/operations.py --model deformable_detr_refine_r50 dino_r50

Each operation is at least one kernel that a GPU's host has to launch. They are counted on a CPU, by a small image, on
whose size they do not depend (but for the matching of more than 10,000 tokens). Precisions are those of CUDA's
autocast. Self-attention, dropout and deformable attention count as CUDA's: one operation forward, one backward, and for
the latter the zeros to which its gradient is added.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from steps import Training, random_batch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from oddetr.distillation import DistillationConfig
from oddetr.models import deformable_attention
from oddetr.models.families.build import PRESETS
from oddetr.models.kernels.loops import LoopAttention, Loops
from oddetr.structures import Shapes

ARMS = {"baseline": DistillationConfig(enabled=False), "OD-DETR": DistillationConfig()}
MEMORY_ONLY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "_unsafe_view"}
"""Operations that compute nothing, beside views."""
IN_FLOAT32 = {
    *("layer_norm", "group_norm", "softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod", "norm", "cdist"),
    *("exp", "log", "log1p", "pow", "__pow__", "rsqrt", "reciprocal", "binary_cross_entropy_with_logits"),
}
"""What CUDA's autocast computes in float32, of that which a CPU's does not."""


class Counting(TorchDispatchMode):
    """Counts operations by name, and casts of values under `cast`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name in MEMORY_ONLY):
            self.found["cast" if name == "_to_copy" and args[0].dtype != result.dtype else name] += 1
        return result


class AsOnCuda(TorchFunctionMode):
    """CPU autocast, with the operations in float32 that are so on CUDA, and dropout as one operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "dropout" and kwargs.get("training"):
            return torch.native_dropout(args[0], kwargs["p"], True)[0]
        if name in IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = tree_map_only(Tensor, lambda each: each.float() if each.dtype == torch.bfloat16 else each, args)
        return func(*args, **kwargs)


def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """`scaled_dot_product_attention` as one operation, whose result is zeros."""
    return Attention.apply(query, key, value)


class Attention(torch.autograd.Function):
    """One operation forward, one backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.shapes = [each.shape for each in (query, key, value)]
        return torch.zeros_like(query)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        zeros = gradients[0].new_zeros(max(shape.numel() for shape in ctx.shapes))
        return tuple(zeros[: shape.numel()].view(shape) for shape in ctx.shapes)


def _forward(shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_zeros(*weights.shape[:3], value.shape[-1])  # in the kernel's place


def _backward(
    shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    to_value, to_locations = torch.zeros_like(value, dtype=torch.float32), torch.zeros_like(locations)
    return to_value.to(value.dtype), to_locations, to_locations[..., 0].to(weights.dtype)


def kernel(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention with the operations of `kernels.gpu`, and zeros as its result."""
    inputs = (each.contiguous() for each in (value, locations, weights))
    return LoopAttention.apply(Loops(_forward, _backward), shapes, *inputs).flatten(2)


@contextmanager
def as_on_cuda(precision: str) -> Iterator[None]:
    """Lightning's precision, with CUDA's kernel and rules."""
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    replaced = mock.patch.object(deformable_attention, "deformable_attention", kernel)
    with replaced, mock.patch.object(F, "scaled_dot_product_attention", attention), autocast, AsOnCuda():
        yield


def operations(training: Training, precision: str) -> dict[str, Counter[str]]:
    """The operations of each part of a step."""
    found: dict[str, Counter[str]] = {}

    def counted(part: str, work: Callable[[], Any]) -> Any:
        with Counting() as counting:
            result = work()
        found[part] = counting.found
        return result

    def loss() -> Tensor:
        with as_on_cuda(precision):
            return training.wrapped(training.batch)["loss"]

    def update() -> None:
        nn.utils.clip_grad_norm_(training.learned, 0.1)
        training.optimizer.step()
        training.task.update_teacher()

    training.optimizer.zero_grad()
    counted("backward", counted("forward", loss).backward)
    counted("optimizer, teacher", update)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=PRESETS, default=["deformable_detr_refine_r50", "dino_r50"])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=0, metavar="N", help="name the N most frequent operations")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| step | precision | forward | backward | optimizer, teacher | all | of these, casts |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in arguments.model:
        for arm, distillation in ARMS.items():
            training = Training(model, random_batch(arguments.image_size, 2), distillation)
            for precision in ("fp32", "bf16"):
                operations(training, precision)  # a first step fills caches
                found = operations(training, precision)
                counts = [each.total() for each in found.values()]
                numbers = [*(counts[place] for place in (0, 1, 2)), sum(counts), sum(c["cast"] for c in found.values())]
                print(f"| {model}, {arm} | {precision} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
                for part, each in found.items() if arguments.kinds else ():
                    print(f"  {part}: {each.most_common(arguments.kinds)}")


if __name__ == "__main__":
    main()
