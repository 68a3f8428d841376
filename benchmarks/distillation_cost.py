"""What distillation costs: time per step and peak memory of each arm and of the baseline, in one run.

python benchmarks/distillation_cost.py --model deformable_detr_refine_tiny --image-size 128 --batch 8
python benchmarks/distillation_cost.py --model deformable_detr_refine_r50 --image-size 640 --batch 8 --device cuda

The floor of an arm: the baseline's step, a forward pass of the teacher (of its decoder only, where it reads the
student's memory), and what its further queries add to a forward and backward pass of the decoder.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import timing
import torch
from steps import Training, random_batch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.models.families.build import PRESETS
from oddetr.structures import Batch, Queries


def arm(
    matching: float,
    prediction: float,
    auxiliary: float,
    rivals: int = AuxiliaryConfig.rivals,
    memory: Literal["teacher", "student"] = "student",
) -> DistillationConfig:
    return DistillationConfig(
        memory=memory,
        matching=MatchingConfig(matching),
        prediction=PredictionConfig(prediction),
        auxiliary=AuxiliaryConfig(auxiliary, rivals=rivals),
    )


ARMS = {
    "baseline": DistillationConfig(enabled=False),
    "full": DistillationConfig(),
    "matching": arm(1.0, 0.0, 0.0),
    "prediction": arm(0.0, 0.3, 0.0),
    "auxiliary": arm(0.0, 0.0, 1.0),
    "auxiliary_no_rivals": arm(0.0, 0.0, 1.0, 0),
    "no_rivals": arm(1.0, 0.3, 1.0, 0),
    "no_prediction": arm(1.0, 0.0, 1.0),
    "paper": arm(1.0, 1.0, 1.0, 0, "teacher"),
}


def training(name: str, arguments: argparse.Namespace, batch: Batch) -> Training:
    return Training(arguments.model, batch, ARMS[name], arguments.device)


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """GiB at the most in three steps: of the device on CUDA, of the process on the CPU."""
    torch.set_num_threads(arguments.threads)
    training(name, arguments, random_batch(arguments.image_size, arguments.batch)).steps(3)
    return timing.peak_gib(arguments.device)


def main() -> None:
    parser = timing.parser(__doc__, rounds=10)
    parser.add_argument("--model", choices=PRESETS, default="deformable_detr_refine_tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="default: all")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, arguments))
        return
    torch.set_num_threads(arguments.threads)
    batch = random_batch(arguments.image_size, arguments.batch).to(arguments.device)
    arms = {name: training(name, arguments, batch) for name in ["baseline", *arguments.arms]}
    work: dict[str, Callable[[], object]] = {name: one.step for name, one in arms.items()}
    for name in arguments.arms:
        work |= {f"{name}: {part}": each for part, each in parts(arms[name].task, batch).items()}
    cost = timing.in_turns(work, arguments.rounds, warm_up=3, device=arguments.device)
    gib = {name: timing.of_another_process("--memory-of", name) for name in arms}
    place = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.threads} thread(s)"
    where = f"{arguments.model}, {arguments.batch} images of {arguments.image_size} px, {place}"
    rows = [
        timing.Row(
            f"a step of {name}, {where}",
            cost[name],
            "the baseline",
            cost["baseline"],
            floor=cost["baseline"] + cost[f"{name}: teacher"] + cost[f"{name}: all"] - cost[f"{name}: own"],
            ours_gib=gib[name],
            theirs_gib=gib["baseline"],
        )
        for name in arguments.arms
    ]
    timing.show(rows, arguments.json)


def parts(task: DistillationTask, batch: Batch) -> dict[str, Callable[[], object]]:
    """The teacher's forward pass, and the decoder's forward and backward with the own group alone and with all."""
    with torch.no_grad():
        memory = task.student.encode(batch.images, batch.padding_mask)
        initial = task.student.initial_queries(memory)
        groups, _ = task.groups(batch, memory)
    queries = {group.name: group.queries for group in groups if group.queries}

    def decode(decoded: dict[str, Queries]) -> None:
        tokens = memory.tokens.detach().requires_grad_()
        found = task.student.decode(replace(memory, tokens=tokens), decoded)
        torch.stack([each.logits.square().sum() + each.boxes.sum() for each in found.values()]).sum().backward()

    return {
        "teacher": lambda: task.view(batch, memory, initial),
        "own": lambda: decode({"own": queries["own"]}),
        "all": lambda: decode(queries),
    }


if __name__ == "__main__":
    main()
