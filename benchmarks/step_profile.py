"""Where the time of a training step goes: the share of each kind of operator, by torch.profiler, on the CPU.

python benchmarks/step_profile.py --model deformable_detr_refine_tiny --image-size 128
"""

import argparse
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.models.presets import PRESETS, build_detector
from oddetr.structures import Batch, GroundTruth

KINDS = {
    "convolution": ("conv", "mkldnn"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "deformable attention": ("LoopAttention",),
    "self-attention": ("scaled_dot_product",),
    "dropout": ("NumbaDropout", "bernoulli", "dropout"),
    "normalisation": ("norm",),
    "optimizer": ("adam",),
}


def random_batch(size: int, images: int = 8, objects: int = 6) -> Batch:
    """Noise with `objects` objects per image."""
    return Batch(
        images=torch.randn(images, 3, size, size),
        padding_mask=torch.zeros(images, size, size, dtype=torch.bool),
        truth=GroundTruth.stack(
            [torch.randint(10, (objects,)) for _ in range(images)],
            [torch.rand(objects, 4) * 0.3 + 0.2 for _ in range(images)],
        ),
        image_ids=tuple(range(images)),
        original_sizes=torch.full((images, 2), size),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=PRESETS, default="deformable_detr_refine_tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--distillation", action="store_true", help="of OD-DETR, not of the baseline")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = DistillationConfig(enabled=arguments.distillation)
    task = DistillationTask(build_detector(PRESETS[arguments.model](), num_classes=10), steps=1000, distillation=config)
    optimizer = torch.optim.AdamW([p for p in task.student.parameters() if p.requires_grad], lr=1e-5, fused=True)
    batch = random_batch(arguments.image_size)

    def step() -> None:
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.student.parameters(), 0.1)
        optimizer.step()
        task.update_teacher()

    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(arguments.steps):
            step()
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
