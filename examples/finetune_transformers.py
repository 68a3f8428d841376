"""Fine-tunes a detector of transformers on a COCO data set with its own Trainer, and by OD-DETR.

    pip install '.[transformers]' pycocotools
    python examples/finetune_transformers.py --model PekingU/rtdetr_v2_r18vd --data DIR --out runs/rtdetr

A script as people write them. The one line that is not: `DistillationTrainer` is imported in the place of `Trainer`.
DIR holds train2017/, val2017/ and annotations/instances_{train,val}2017.json, or the names that --train and --val give.
"""

import argparse
from pathlib import Path

import torch
from torchmetrics.detection import MeanAveragePrecision
from torchvision.datasets import CocoDetection
from transformers import AutoImageProcessor, AutoModelForObjectDetection, RTDetrImageProcessor, TrainingArguments

from oddetr.integrations.transformers import DistillationTrainer as Trainer  # before: from transformers import Trainer


class Images(torch.utils.data.Dataset):
    """A split, as the processor prepares it; labels count from 0."""

    def __init__(self, folder: Path, split: str, processor: RTDetrImageProcessor) -> None:
        self.images = CocoDetection(folder / split, folder / "annotations" / f"instances_{split}.json")
        self.processor = processor
        self.labels = {category: label for label, category in enumerate(sorted(self.images.coco.cats))}
        self.names = [self.images.coco.cats[category]["name"] for category in self.labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image, objects = self.images[index]
        objects = [each | {"category_id": self.labels[each["category_id"]]} for each in objects]
        annotations = {"image_id": self.images.ids[index], "annotations": objects}
        encoded = self.processor(images=image, annotations=annotations, return_tensors="pt")
        return {"pixel_values": encoded["pixel_values"][0], "labels": encoded["labels"][0]}


def collate(samples: list[dict]) -> dict:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }


def average_precision(trainer: Trainer, data: Images, processor: RTDetrImageProcessor) -> float:
    """COCO's AP of the teacher."""
    metric = MeanAveragePrecision(box_format="xyxy", backend="faster_coco_eval")
    model = trainer.teacher.eval()
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            outputs = model(batch["pixel_values"])
        labels = [{name: value.cpu() for name, value in label.items()} for label in batch["labels"]]
        sizes = torch.stack([label["orig_size"] for label in labels])
        found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        truth = []
        for label, (height, width) in zip(labels, sizes.tolist(), strict=True):
            cx, cy, w, h = (label["boxes"] * torch.tensor([width, height, width, height])).unbind(-1)
            boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
            truth.append({"boxes": boxes, "labels": label["class_labels"]})
        metric.update([{name: value.cpu() for name, value in each.items()} for each in found], truth)
    return float(metric.compute()["map"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or a name on the hub")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", default="train2017")
    parser.add_argument("--val", default="val2017")
    parser.add_argument("--out", default="runs/transformers")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    size = {"height": arguments.image_size, "width": arguments.image_size}
    try:
        processor = AutoImageProcessor.from_pretrained(arguments.model, size=size)
    except OSError:  # a folder without a processor's configuration
        processor = RTDetrImageProcessor(size=size)
    train, val = (Images(arguments.data, split, processor) for split in (arguments.train, arguments.val))
    names = dict(enumerate(train.names))
    model = AutoModelForObjectDetection.from_pretrained(
        arguments.model,
        id2label=names,
        label2id={name: label for label, name in names.items()},
        ignore_mismatched_sizes=True,
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=arguments.out,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=arguments.batch_size,
            learning_rate=1e-4,
            max_grad_norm=0.1,
            save_strategy="epoch",
            eval_strategy="epoch",
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=arguments.resume or None)
    trainer.save_model(arguments.out)
    processor.save_pretrained(arguments.out)
    print(f"AP of the teacher: {average_precision(trainer, val, processor):.3f} (0-1), in {arguments.out}/teacher")


if __name__ == "__main__":
    main()
