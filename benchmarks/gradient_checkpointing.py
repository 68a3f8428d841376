"""What gradient checkpointing saves and costs: time and peak memory of a step with it and without, in one run.

python benchmarks/gradient_checkpointing.py --model deformable_detr_refine_r50 --image-size 320 --batch 2
python benchmarks/gradient_checkpointing.py --image-size 640 --batch 8 --device cuda
"""

import argparse

import timing
import torch
from steps import Training, random_batch

from oddetr.distillation import DistillationConfig
from oddetr.models.families.build import PRESETS

WAYS = {"checkpointing": True, "without it": False}


def training(way: str, arguments: argparse.Namespace) -> Training:
    torch.set_num_threads(arguments.threads)
    batch = random_batch(arguments.image_size, arguments.batch)
    made = Training(arguments.model, batch, DistillationConfig(), arguments.device)
    if WAYS[way]:
        made.task.student.checkpoint_gradients()
    return made


def main() -> None:
    parser = timing.parser(__doc__, threads=2, rounds=5)
    parser.add_argument("--model", choices=PRESETS, default="deformable_detr_refine_r50")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--memory-of", choices=[*WAYS, "nothing"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        if arguments.memory_of in WAYS:
            training(arguments.memory_of, arguments).steps(2)
        print(timing.peak_gib(arguments.device))
        return
    times = timing.in_turns({way: training(way, arguments).step for way in WAYS}, arguments.rounds, 1, arguments.device)
    base, ours, theirs = (timing.of_another_process("--memory-of", way) for way in ("nothing", *WAYS))
    where = f"{arguments.model}, {arguments.batch} images of {arguments.image_size} px, {arguments.threads} thread(s)"
    what = f"a step with gradient checkpointing, {where}; imports alone {base:.2f} GiB"
    row = timing.Row(what, times["checkpointing"], "without it", times["without it"], ours_gib=ours, theirs_gib=theirs)
    timing.show([row], arguments.json)


if __name__ == "__main__":
    main()
