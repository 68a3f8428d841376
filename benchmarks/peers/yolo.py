"""ultralytics' YOLO11n from its configuration, so from random weights. Runs where ultralytics is (`environment`)."""

import json
from pathlib import Path
from typing import Any

import torch
import ultralytics

from .task import Task, play


def train(task: Task) -> dict[str, Any]:
    batches: list[int] = []

    def start(trainer: Any) -> None:
        torch.set_num_threads(task.threads)  # ultralytics has set all cores but one
        trainer.args.time = task.left / 3600

    ultralytics.settings.update(
        {name: False for name, value in ultralytics.settings.items() if value is True}
    )  # loggers
    model = ultralytics.YOLO("yolo11n.yaml")
    model.add_callback("on_train_start", start)
    model.add_callback("on_train_batch_start", lambda _: batches.append(1))
    options = {
        "device": "cpu",
        "workers": 0,
        "pretrained": False,
        "amp": False,  # its check would download a model
        "plots": False,
        "project": task.out,
        "name": "run",
    }
    data = str(Path(task.yolo) / "data.yaml")
    model.train(data=data, time=task.left / 3600, imgsz=task.image_size, seed=task.seed, **options)
    trainer: Any = model.trainer
    return {
        "weights": "random",
        "image_size": task.image_size,
        "epochs": len(batches) / len(trainer.train_loader),
        "threads": torch.get_num_threads(),
    }


def detect(task: Task) -> list[Any]:
    """With ultralytics' own suppression of duplicates, and down to the confidence that its own evaluation counts."""
    ids, rows = json.loads((Path(task.yolo) / "ids.json").read_text()), list[Any]()
    model = ultralytics.YOLO(Path(task.out) / "run" / "weights" / "best.pt")
    options = {"imgsz": task.image_size, "conf": 0.001, "device": "cpu", "stream": True, "verbose": False}
    for found in model.predict(Path(task.yolo) / "images" / "test", **options):
        boxes = zip(found.boxes.xyxy.tolist(), found.boxes.conf.tolist(), found.boxes.cls.tolist(), strict=True)
        rows += [
            {
                "image_id": int(Path(found.path).stem),
                "category_id": ids[found.names[int(label)]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": confidence,
            }
            for (x0, y0, x1, y1), confidence, label in boxes
        ]
    return rows


if __name__ == "__main__":
    play(train, detect)
