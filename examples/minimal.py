"""OD-DETR without the package's trainer: one loop of plain PyTorch on digit scenes, a few minutes on a CPU.

    python examples/minimal.py                                 # OD-DETR
    python examples/minimal.py --baseline                      # the same detector without a teacher's lessons
    python examples/minimal.py --steps 20 --scenes 16          # a quick look

It shows everything that a step needs: a detector, batches, the task that gives the loss, an optimizer, and the teacher
that follows the student. `oddetr train` adds what a long run needs: checks of the data, checkpoints, resume, logs, a
report.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch

from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import EvalTransform
from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.evaluation.coco import Metrics, evaluate_detections
from oddetr.evaluation.postprocessing import postprocess
from oddetr.models.detector import Detector
from oddetr.models.families.build import PRESETS, build_detector
from oddetr.structures import Batch

SIZE, BATCH, CLASSES = 128, 8, 10


def batches(scenes: DigitScenes, detector: Detector, epochs: int, shuffle: bool) -> Iterator[Batch]:
    """Batches of normalised images with their objects; new scenes in every epoch if the source is fresh."""
    transform = EvalTransform(SIZE, detector.mean, detector.std)
    sampler = EpochSampler(len(scenes), shuffle=shuffle)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        yield from make_loader(TransformedDataset(scenes, transform), sampler, BATCH)


def parameter_groups(task: DistillationTask, rate: float) -> list[dict]:
    """The backbone learns slower than the rest; so do the layers that place what a query reads (Deformable-DETR)."""
    slow = ("sampling_offsets", "reference_points")
    groups: dict[float, list[torch.nn.Parameter]] = {1.0: [], 0.4: [], 0.1: []}
    for name, parameter in task.learned():
        if parameter.requires_grad:
            share = 0.4 if name.startswith("backbone") else 0.1 if any(part in name for part in slow) else 1.0
            groups[share].append(parameter)
    return [{"params": parameters, "lr": rate * share} for share, parameters in groups.items()]


def train(task: DistillationTask, scenes: DigitScenes, rate: float) -> None:
    """Trains for `task.steps` steps; the learning rate drops to a tenth for the last 15 % of them."""
    optimizer = torch.optim.AdamW(parameter_groups(task, rate), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 0.85 * task.steps else 0.1)
    task.train()
    begin = time.monotonic()
    for step, batch in enumerate(batches(scenes, task.student, epochs=1, shuffle=True)):
        optimizer.zero_grad()
        parts = task(batch)
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in task.learned()], 0.1)
        optimizer.step()
        schedule.step()
        task.update_teacher()
        if step % 10 == 0 or step + 1 == task.steps:
            told = "  ".join(
                f"{name.removeprefix('loss_')} {value:.2f}" for name, value in parts.items() if "l1" in name
            )
            left = (time.monotonic() - begin) / (step + 1) * (task.steps - step - 1)
            print(f"step {step + 1}/{task.steps}  loss {parts['loss']:.2f}  {told}  left {left:.0f} s", flush=True)


@torch.inference_mode()
def score(detector: Detector, scenes: DigitScenes, count: int) -> Metrics:
    """COCO's metrics on the first `count` scenes, in whole batches."""
    detector.eval()
    found = {}
    for batch in islice(batches(scenes, detector, epochs=1, shuffle=False), max(1, count // BATCH)):
        predictions = detector(batch.images, batch.padding_mask)
        detections = postprocess(predictions, batch.original_sizes, detector.top_k)
        found |= dict(zip(batch.image_ids, detections, strict=True))
    return evaluate_detections(scenes.annotations().take(np.arange(len(found))), scenes.classes, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", action="store_true", help="no lessons; the teacher is a plain EMA")
    parser.add_argument("--steps", type=int, default=400, help=f"optimizer steps of {BATCH} scenes")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--scenes", type=int, default=500, help="score the first so many validation scenes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    sizes = {"width": 96, "ffn_width": 384, "num_queries": 50}
    detector = build_detector(PRESETS["deformable_detr_refine_tiny"].override(sizes), CLASSES)
    detector.backbone.load_imagenet()  # of the `offline` extra: no download
    task = DistillationTask(detector, arguments.steps, DistillationConfig(enabled=not arguments.baseline))
    train(task, DigitScenes("train", arguments.steps * BATCH, seed=arguments.seed), arguments.rate)

    val = DigitScenes("val")
    for name, model in (("student", task.student), ("teacher", task.teacher.detector)):
        metrics = score(model, val, arguments.scenes)
        print(f"{name}: AP {metrics.ap:.3f}  AP50 {metrics.ap50:.3f}")


if __name__ == "__main__":
    main()
