"""How the time and memory of an OD-DETR training step grow with one size at a time, on the CPU.

python benchmarks/growth.py --out docs/performance        # growth.png, growth.json and a table

A point is the median of a few steps, all points of an axis taking turns. Memory is the most that a process with that
step alone had in use, less what it had before the first step. The exponent is the slope of the line through the
logarithms of all points, that of the last two points beside it. Devices are processes with one thread and a whole batch
each, which share their gradients (gloo).
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import timing
import torch
import torch.multiprocessing
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from steps import Training, random_batch
from torch.nn.parallel import DistributedDataParallel

from oddetr.distillation import DistillationConfig
from oddetr.distillation.group_detr import GroupsConfig

BASE = {"image_side": 128, "queries": 100, "batch": 4, "objects": 6, "groups": 0}
AXES: dict[str, Sequence[int]] = {
    "image_side": (128, 192, 256, 384, 512),
    "queries": (50, 100, 200, 400, 800),
    "batch": (2, 4, 8, 16),
    "objects": (1, 4, 16, 64, 256),
    "groups": (0, 1, 3, 7, 11),
    "devices": (1, 2),
}
LABELS = {
    "image_side": "image side (pixels)",
    "queries": "queries",
    "batch": "images in a batch",
    "objects": "objects in an image",
    "groups": "query groups (Group DETR), with the own",
    "devices": "processes",
}


@dataclass(frozen=True)
class Growth:
    """Of one axis: its points (groups with the own one), milliseconds and MiB at each."""

    axis: str
    points: list[int]
    milliseconds: list[float]
    mebibytes: list[float]

    def exponents(self, values: Sequence[float]) -> tuple[float, float]:
        """The slope of logarithms by least squares through all points, and between the last two."""
        x, y = ([math.log(value) for value in side] for side in (self.points, values))
        centre = sum(x) / len(x)
        slope = sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x)
        (before, last) = list(pairwise(zip(x, y, strict=True)))[-1]
        return slope, (last[1] - before[1]) / (last[0] - before[0])


def training(axis: str, point: int) -> Training:
    """The default OD-DETR of `deformable_detr_refine_tiny`, one size changed."""
    size = BASE | ({axis: point} if axis in BASE else {})
    batch = random_batch(size["image_side"], size["batch"], size["objects"])
    groups = GroupsConfig(one_to_one=size["groups"])
    return Training("deformable_detr_refine_tiny", batch, DistillationConfig(), queries=size["queries"], groups=groups)


def peak_memory(axis: str, point: int) -> float:
    """MiB in use at the most in three steps, beyond what is there before them."""
    one = training(axis, point)
    before = timing.peak_gib()
    one.steps(3)
    return (timing.peak_gib() - before) * 1024


def _process(rank: int, world: int, rounds: int, result: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{Path(result).resolve()}.{world}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=world)
    one = training("devices", world)
    if world > 1:
        one.wrapped = DistributedDataParallel(one.task, broadcast_buffers=False)
    before = timing.peak_gib()
    time = timing.in_turns({"step": one.step}, rounds)["step"]
    if rank == 0:
        Path(result).write_text(json.dumps([time, (timing.peak_gib() - before) * 1024]))
    torch.distributed.destroy_process_group()


def of_processes(world: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of a step, and MiB of one process, where `world` of them share the work."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        torch.multiprocessing.spawn(_process, (world, rounds, str(result)), nprocs=world)
        time, memory = json.loads(result.read_text())
    return time, memory


def measure(axis: str, arguments: argparse.Namespace) -> Growth:
    points = list(AXES[axis])
    if axis == "devices":
        found = [of_processes(world, arguments.rounds) for world in points]
        return Growth(axis, points, *map(list, zip(*found, strict=True)))
    memory = [timing.of_another_process("--memory-of", axis, str(point)) for point in points]
    times = timing.in_turns({str(point): training(axis, point).step for point in points}, arguments.rounds)
    shown = [point + 1 for point in points] if axis == "groups" else points
    return Growth(axis, shown, list(times.values()), memory)


def draw(found: Sequence[Growth], file: Path) -> None:
    """A panel for each axis: time and memory over their first point's, both scales logarithmic."""
    figure = Figure(figsize=(4 * len(found), 7.2), layout="constrained")
    rows = figure.subplots(2, len(found), squeeze=False)
    for column, growth in enumerate(found):
        sides = (("milliseconds a step", growth.milliseconds), ("MiB above the start", growth.mebibytes))
        for row, (unit, values) in enumerate(sides):
            axes = rows[row][column]
            slope, last = growth.exponents(values)
            axes.loglog(growth.points, values, "o-", color="#0072B2")
            axes.set_xticks(growth.points, [str(point) for point in growth.points])
            axes.set_xticks([], minor=True)
            axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
            for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
            axes.set_title(f"exponent {slope:.2f}, at the end {last:.2f}", fontsize=10)
            axes.set_xlabel(LABELS[growth.axis])
            axes.set_ylabel(unit if column == 0 else "")
            axes.grid(alpha=0.3, which="both")
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = timing.parser(__doc__, rounds=5, as_json=False)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=[*AXES], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("docs/performance"), help="default: %(default)s")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        axis, point = arguments.memory_of
        print(peak_memory(axis, int(point)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [measure(axis, arguments) for axis in arguments.axes]
    draw(found, arguments.out / "growth.png")
    (arguments.out / "growth.json").write_text(json.dumps([asdict(growth) for growth in found], indent=1))
    print("| | points | ms a step | exponent (at the end) | MiB | exponent (at the end) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for growth in found:
        cells = [LABELS[growth.axis], ", ".join(map(str, growth.points))]
        for values in (growth.milliseconds, growth.mebibytes):
            slope, last = growth.exponents(values)
            cells += [", ".join(f"{value:.0f}" for value in values), f"{slope:.2f} ({last:.2f})"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
