"""oddetr with nothing set but its time, as `oddetr train --data DIR --hours H`, in one process."""

import math
from pathlib import Path
from typing import Any

import torch

from oddetr.checkpoints.checkpoint import read_info
from oddetr.prediction.predictor import Predictor
from oddetr.verbs import train as oddetr_train

from .data import read_splits
from .task import Task, play


def train(task: Task) -> dict[str, Any]:
    run = Path(task.out) / "run"
    oddetr_train(data=task.data, hours=task.left / 3600, out=run, seed=task.seed, workers=0)
    info = read_info(run / "last")
    batches = math.ceil(info.images["train"] / info.configuration["batch_size"])
    share = info.configuration["trainer"].get("limit_train_batches", batches) / batches
    return {
        "weights": "ImageNet (backbone)" if info.detector.pretrained else "random",
        "image_size": info.image_size,
        "epochs": info.epoch * share,
        "threads": torch.get_num_threads(),
    }


def detect(task: Task) -> list[Any]:
    test = read_splits(task.data)["test"]
    found = Predictor.load(Path(task.out) / "run").detect_source(test)
    return [row for image, each in found for row in each.to_coco(image, test.classes)]


if __name__ == "__main__":
    play(train, detect)
