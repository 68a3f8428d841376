"""Where the time of a training step goes: the share of each kind of operator, by torch.profiler, on the CPU.

python benchmarks/step_profile.py --model deformable_detr_refine_tiny --image-size 128
"""

import argparse
from collections import defaultdict

import torch
from steps import Training, random_batch
from torch.profiler import ProfilerActivity, profile

from oddetr.distillation import DistillationConfig
from oddetr.models.families.build import PRESETS

KINDS = {
    "convolution": ("conv", "mkldnn"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "deformable attention": ("LoopAttention",),
    "self-attention": ("scaled_dot_product",),
    "dropout": ("bernoulli", "dropout"),
    "normalisation": ("norm",),
    "optimizer": ("adam",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=PRESETS, default="deformable_detr_refine_tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--distillation", action="store_true", help="of OD-DETR, not of the baseline")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = DistillationConfig(enabled=arguments.distillation)
    training = Training(arguments.model, random_batch(arguments.image_size), config)
    training.steps(3)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        training.steps(arguments.steps)
    shares: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        kind = next(
            (k for k, parts in KINDS.items() if any(part in event.key.lower() or part in event.key for part in parts)),
            "other",
        )
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    per_step = total / arguments.steps / 1e3
    size, threads = arguments.image_size, arguments.threads
    print(f"{arguments.model}, 8 images of {size} px, {threads} threads: {per_step:.0f} ms a step")
    for kind, time in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"  {kind:<22}{time / total:6.1%}")


if __name__ == "__main__":
    main()
