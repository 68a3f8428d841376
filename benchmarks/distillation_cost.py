"""What distillation costs: time per step and peak memory of each arm over the baseline's, in one run.

python benchmarks/distillation_cost.py --model deformable_detr_refine_tiny --image-size 128 --batch 8
python benchmarks/distillation_cost.py --model deformable_detr_refine_r50 --image-size 640 --batch 8 --device cuda

Arms take turns, step by step, so that a noisy machine is noisy for all; the median counts. The floor of distillation is
the baseline's step and one forward pass of the teacher: of its decoder only, where it reads the student's memory. Peak
memory is measured in a process for each arm; of the CPU on Linux only.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from step_profile import random_batch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.models.presets import PRESETS, build_detector
from oddetr.structures import Batch


def arm(
    matching: float, prediction: float, auxiliary: float, memory: Literal["teacher", "student"] = "teacher"
) -> DistillationConfig:
    return DistillationConfig(
        memory=memory,
        matching=MatchingConfig(matching),
        prediction=PredictionConfig(prediction),
        auxiliary=AuxiliaryConfig(auxiliary),
    )


ARMS = {
    "baseline": DistillationConfig(enabled=False),
    "matching": arm(1.0, 0.0, 0.0),
    "prediction": arm(0.0, 1.0, 0.0),
    "auxiliary": arm(0.0, 0.0, 1.0),
    "full": arm(1.0, 1.0, 1.0),
    "matching, student's memory": arm(1.0, 0.0, 0.0, "student"),
    "prediction, student's memory": arm(0.0, 1.0, 0.0, "student"),
    "auxiliary, student's memory": arm(0.0, 0.0, 1.0, "student"),
    "full, student's memory": arm(1.0, 1.0, 1.0, "student"),
}

FORWARD = {"teacher": "(the teacher's forward pass)", "student": "(the same, student's memory)"}
"""By what the teacher reads."""


class Arm:
    """A model of its own, and its training step."""

    def __init__(self, config: DistillationConfig, arguments: argparse.Namespace, batch: Batch) -> None:
        torch.manual_seed(0)
        detector = build_detector(PRESETS[arguments.model](), num_classes=10).to(arguments.device)
        self.task = DistillationTask(detector, 1000, config).train()
        learned = [p for p in self.task.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=1e-5, fused=True)
        self.batch = batch

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.task(self.batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.task.student.parameters(), 0.1)
        self.optimizer.step()
        self.task.update_teacher()


def seconds(work: Callable[[], object], device: str) -> float:
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_memory(config: DistillationConfig, arguments: argparse.Namespace) -> float:
    """GiB at the most in three steps: of the device on CUDA, of the process on the CPU."""
    torch.set_num_threads(arguments.threads)
    one = Arm(config, arguments, random_batch(arguments.image_size, arguments.batch).to(arguments.device))
    for _ in range(3):
        one.step()
    if arguments.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()  # `getrusage` would also tell of the process that started this one
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="deformable_detr_refine_tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(ARMS[arguments.memory_of], arguments))
        return
    torch.set_num_threads(arguments.threads)
    batch = random_batch(arguments.image_size, arguments.batch).to(arguments.device)
    arms = {name: Arm(config, arguments, batch) for name, config in ARMS.items()}
    full = arms["full"].task
    with torch.no_grad():
        memory = full.student.encode(batch.images, batch.padding_mask)
    work: dict[str, Callable[[], object]] = {name: one.step for name, one in arms.items()} | {
        FORWARD["teacher"]: lambda: full.view(batch),
        FORWARD["student"]: lambda: full.view(batch, memory),
        "(the teacher's update)": full.update_teacher,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(arguments.rounds + 3):
        for name, each in work.items():
            taken = seconds(each, arguments.device)
            if turn >= 3:
                times[name].append(taken)
    cost = {name: 1e3 * median(values) for name, values in times.items()}
    place = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"{arguments.model}, {arguments.batch} images of {arguments.image_size} px, {place}; ratios to the baseline")
    print(f"{'':<30}{'ms':>8}{'ratio':>8}{'over floor':>12}{'GiB':>8}")
    for name, value in cost.items():
        row = f"{name:<30}{value:8.1f}{value / cost['baseline']:8.2f}"
        if name in ARMS:
            command = [sys.executable, *sys.argv, "--memory-of", name]
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            floor = cost["baseline"] + cost[FORWARD[ARMS[name].memory]]
            row += f"{value / floor - 1:12.0%}{peak:8.2f}" if name != "baseline" else f"{'':>12}{peak:8.2f}"
        print(row)
    for reads, forward in FORWARD.items():
        name, floor = f"floor, {reads}'s memory", cost["baseline"] + cost[forward]
        print(f"{name:<30}{floor:8.1f}{floor / cost['baseline']:8.2f}")


if __name__ == "__main__":
    main()
