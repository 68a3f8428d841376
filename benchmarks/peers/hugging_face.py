"""transformers' way to fine-tune: its Deformable-DETR, of the layers, queries and image size that oddetr would choose,
in its Trainer, with the settings that its example run_object_detection.py documents.

These are AdamW at 5e-5 for all weights, decay 1e-4, batches of 8, gradients clipped to 1, a rate that falls linearly to
0, and the example's augmentation less its crop, which one image in five has, and two of its three blurs. The steps are
planned from a few timed ones. Nothing is validated: that would cost time, and the last weights are those of rate 0.

Two things are mended, without which nothing would be learned from these weights: transformers (5.24) takes activations
out of such a backbone together with its norms, and its class outputs begin at 1/2, not at the official prior.
"""

import time
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import transformers
from timm.layers import freeze_batch_norm_2d
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.peer import deformable_detr
from oddetr.data.dataset import DetectionData, Sample
from oddetr.data.image_sizes import LONGEST
from oddetr.evaluation.detections import Detections
from oddetr.models.backbone import Backbone
from oddetr.models.transformers.adapters import adapt
from oddetr.training.config import SCRATCH, TrainConfig, chosen
from oddetr.training.plan.choice import Facts, Machine, choose

from .data import read_splits
from .task import Task, play

EXAMPLE = {"learning_rate": 5e-5, "per_device_train_batch_size": 8}
AT_OUR_RATE = "transformers_at_our_rate"
"""The contestant that has oddetr's learning rate and batch size instead."""
TIMED = 5
"""Steps; the first of them does not count."""
SAVING = 2
"""Seconds kept for it."""
STRIDES_8_16_32 = [2, 3, 4]
AUGMENT = v2.Compose(
    [
        v2.RandomApply([v2.GaussianBlur(7)], 0.1),
        v2.RandomPerspective(0.1, p=0.1),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], 0.5),
        v2.RandomApply([v2.ColorJitter(saturation=0.2, hue=0.05)], 0.1),
        v2.SanitizeBoundingBoxes(min_area=25),
        v2.ConvertBoundingBoxFormat("XYWH"),
    ]
)


class Examples(torch.utils.data.Dataset[tuple[Any, dict[str, Any]]]):
    """Augmented images, and their objects as COCO annotations with labels for ids."""

    def __init__(self, source: DetectionData) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        sample = self.source.sample(index)
        boxes: Any = {"format": "XYXY", "canvas_size": sample.size}
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(sample.boxes[~sample.crowd]), **boxes)
        labels = torch.from_numpy(sample.labels[~sample.crowd])
        seen = AUGMENT({"image": tensor(sample), "boxes": boxes, "labels": labels})
        objects = [
            {"bbox": box, "category_id": label, "area": box[2] * box[3], "iscrowd": 0}
            for box, label in zip(seen["boxes"].tolist(), seen["labels"].tolist(), strict=True)
        ]
        return seen["image"], {"image_id": sample.image_id, "annotations": objects}


class Clock(transformers.TrainerCallback):
    """Notes the end of each step, and stops a training whose time is over."""

    def __init__(self, task: Task) -> None:
        self.task, self.ends = task, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.ends.append(time.perf_counter())
        control.should_training_stop |= self.task.left < SAVING


def tensor(sample: Sample) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))


def mend_backbone(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put timm's own backbone, its norms frozen, in the place of transformers' copy, with these weights."""
    name = model.config.backbone_config.backbone
    body = freeze_batch_norm_2d(timm.create_model(name, features_only=True, out_indices=STRIDES_8_16_32))
    body.load_state_dict(state)
    model.model.backbone.model = body


def detector(config: Any, names: tuple[str, ...], size: int) -> tuple[Any, Any]:
    """transformers' model of these sizes, with ImageNet weights in its backbone, and its image processor."""
    ours = Backbone(config.backbone, frozen=True)
    ours.load_imagenet()
    theirs = {"backbone": config.backbone, "out_indices": STRIDES_8_16_32, "use_pretrained_backbone": False}
    model = deformable_detr(config, transformers.TimmBackboneConfig(**theirs), len(names))
    model.config.id2label = dict(enumerate(names))
    adapt(model).initialise()
    mend_backbone(model, ours.body.state_dict())
    sizes = {"shortest_edge": size, "longest_edge": round(size * LONGEST)}
    normalisation = {"image_mean": list(ours.mean), "image_std": list(ours.std)}
    return model, transformers.DeformableDetrImageProcessor(size=sizes, **normalisation)


def train(task: Task) -> dict[str, Any]:
    torch.manual_seed(task.seed)
    source, out = read_splits(task.data)["train"], Path(task.out)
    config, _ = choose(TrainConfig(data=task.data, model=SCRATCH), Facts.of_source(source), Machine())
    size, settings = chosen(config.image_size), EXAMPLE
    if task.peer == AT_OUR_RATE:
        rate = chosen(config.optimizer.learning_rate)
        settings = {"learning_rate": rate, "per_device_train_batch_size": chosen(config.batch_size)}
    model, processor = detector(config.detector_config(), source.classes.names, size)

    def collate(examples: list[Any]) -> Any:
        images, annotations = map(list, zip(*examples, strict=True))
        return processor(images=images, annotations=annotations, return_tensors="pt")

    def trained(model: Any, steps: int) -> tuple[transformers.Trainer, Clock]:
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "remove_unused_columns": False}
        options = settings | quiet | {"weight_decay": 1e-4, "seed": task.seed, "use_cpu": True, "max_steps": steps}
        arguments = transformers.TrainingArguments(str(out / "trainer"), **options)
        clock = Clock(task)
        trainer = transformers.Trainer(model, arguments, collate, Examples(source), callbacks=[clock])
        trainer.train()
        return trainer, clock

    _, clock = trained(deepcopy(model), TIMED)
    pace = median(end - start for start, end in pairwise(clock.ends))
    steps = max(1, int((task.left - SAVING) / pace))
    print(f"{steps} steps of {pace:.2f} s: {settings}, {size} pixels", flush=True)
    trainer, _ = trained(model, steps)
    model.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    told = {"weights": "ImageNet (backbone)", "image_size": size, "epochs": trainer.state.epoch}
    return told | {"threads": torch.get_num_threads()}


@torch.inference_mode()
def detect(task: Task) -> list[Any]:
    folder, test, rows = Path(task.out) / "model", read_splits(task.data)["test"], list[Any]()
    model = transformers.DeformableDetrForObjectDetection.from_pretrained(folder)
    mend_backbone(model, model.model.backbone.model.state_dict())
    model.eval()
    processor = transformers.DeformableDetrImageProcessor.from_pretrained(folder)
    labels = torch.tensor([test.classes.names.index(name) for _, name in sorted(model.config.id2label.items())])
    for sample in map(test.sample, range(len(test))):
        output = model(**processor(images=[tensor(sample)], return_tensors="pt"))
        (found,) = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[sample.size])
        parts = found["boxes"], found["scores"], labels[found["labels"]]
        rows += Detections(*(part.numpy() for part in parts)).to_coco(sample.image_id, test.classes)
    return rows


if __name__ == "__main__":
    play(train, detect)
