"""What Triton's compiler makes of the loops of deformable attention, and what the forms keep; no GPU is needed.

    python benchmarks/gpu_code.py                                # compute capability 9.0
    python benchmarks/gpu_code.py --capabilities 75,80,89,90

Heads of 32 channels, four levels of four points. Instructions are those that a warp executes for each point of a query
and head, counted from the machine code: a loop's body as often as it runs, and both ways of a branch. Barriers and
shuffles are places in the code. What a form keeps for the backward pass, beside its inputs, is counted on
tensors without data, at 800 x 1333 pixels and batch 2.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from oddetr.models.kernels import gpu
from oddetr.models.kernels.operators import gather_attention, grid_sample_attention
from oddetr.structures import Shapes

BATCH, HEADS, WIDTH, POINTS = 2, 8, 32, 4
HEIGHT, BREADTH = 800, 1333
SHAPES: Shapes = tuple((-(-HEIGHT // stride), -(-BREADTH // stride)) for stride in (8, 16, 32, 64))
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w+)([^;]*);")


class NoGPU:
    """A driver that names a GPU to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, _: int) -> int:
        return 0


class Compiled:
    """In the place of a loop: compiles what would be launched."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.code = b""
        self.warps = self.points = 0

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            self.code = self.loop.warmup(*arguments, grid=grid, **constants).asm["cubin"]
            self.warps = constants["num_warps"]
            self.points = constants["BLOCK"] * constants["LEVELS"] * constants["POINTS"]

        return launch


def inputs(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations and weights of the encoder; on the CPU of one token, as their sizes compile to nothing."""
    tokens = sum(height * width for height, width in SHAPES) if device == "meta" else 1
    points = (BATCH, tokens, HEADS, len(SHAPES), POINTS)
    value = torch.zeros(BATCH, tokens, HEADS, WIDTH, device=device, dtype=dtype, requires_grad=True)
    return value, *(torch.zeros(*size, device=device, requires_grad=True) for size in ((*points, 2), points))


def tool(name: str, code: bytes) -> str:
    """What NVIDIA's tool, which Triton brings, says of machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([TOOLS / "cuobjdump", name, file.name], capture_output=True, text=True, check=True).stdout


def executed(instructions: list[tuple[int, str, str]]) -> int:
    """Count what a warp executes: loops over levels, and in them over points, are backward branches."""
    jumps = [(place, re.search(r"0x([0-9a-f]+)", rest)) for place, name, rest in instructions if name == "BRA"]
    loops = [(int(to[1], 16), place) for place, to in jumps if to and int(to[1], 16) < place]
    end = max(place for place, name, _ in instructions if name == "EXIT")
    times = (1, len(SHAPES), len(SHAPES) * POINTS)
    return sum(
        times[sum(first <= place <= last for first, last in loops)] for place, _, _ in instructions if place <= end
    )


def show_code(capability: int, dtype: torch.dtype) -> None:
    """Print a row for each loop."""
    driver.set_active(NoGPU(capability))
    arguments = inputs("cpu", dtype)
    loops = {name: Compiled(getattr(gpu, name)) for name in ("forward", "backward")}
    before = {name: loop.loop for name, loop in loops.items()}
    vars(gpu).update(loops)
    output = gpu._forward(SHAPES, *arguments)  # pyright: ignore[reportPrivateUsage]
    gpu._backward(SHAPES, *arguments, output)  # pyright: ignore[reportPrivateUsage]
    vars(gpu).update(before)
    for name, loop in loops.items():
        found = INSTRUCTION.findall(tool("-sass", loop.code))
        instructions = [(int(place, 16), operation, rest) for place, operation, rest in found]
        counts = Counter(operation for _, operation, _ in instructions)
        registers, stack, shared = re.findall(r"(?:REG|STACK|SHARED):(\d+)", tool("-res-usage", loop.code))[:3]
        each = executed(instructions) * loop.warps / loop.points
        print(
            f"| {name} | {dtype} | {capability / 10} | {registers} | {counts['BAR']} | {counts['SHFL']} | {shared} | "
            f"{stack} | {each:.1f} |"
        )


def kept(form: Any) -> int:
    """Bytes that `form` keeps for the backward pass, beside its inputs."""
    arguments, sizes = inputs("meta"), dict[int, int]()
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        form(arguments[0], SHAPES, *arguments[1:])
    own = {tensor.untyped_storage()._cdata for tensor in arguments}
    return sum(size for storage, size in sizes.items() if storage not in own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capabilities", default="90", help="times ten, separated by commas; default: %(default)s")
    print("| loop | values | capability | registers | barriers | shuffles | shared bytes | spilled | instructions |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for capability in parser.parse_args().capabilities.split(","):
        for dtype in (torch.float32, torch.bfloat16):
            show_code(int(capability), dtype)
    for form in (gather_attention, grid_sample_attention):
        print(f"{form.__name__} keeps {kept(form) / 2**30:.2f} GiB in a layer of the encoder, beside its inputs")


if __name__ == "__main__":
    main()
