"""What a contestant is given, and what it leaves. Only the standard library: ultralytics' environment reads it too."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        peer: the contestant.
        data: the data set's folder.
        yolo: the same splits in YOLO's layout (`data.export_yolo`).
        out: the contestant's folder.
        until: when the weights are to be on the disk, in seconds since the epoch.
        threads: of the one process that trains.
        seed: of the training.
        image_size: of YOLO11n, in pixels; the others choose theirs.
    """

    peer: str
    data: str
    yolo: str
    out: str
    until: float
    threads: int
    seed: int
    image_size: int

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def leave(self, name: str, content: Any) -> None:
        """Write NAME.json: `told`, or `detections`, a COCO results list of the test split with the data's own ids."""
        (Path(self.out) / f"{name}.json").write_text(json.dumps(content))


def play(train: Callable[[Task], dict[str, Any]], detect: Callable[[Task], list[Any]]) -> None:
    """Run a contestant's module: python -m MODULE train|detect TASK. `train` tells what stands in the table."""
    verb, file = sys.argv[1:]
    task = Task(**json.loads(Path(file).read_text()))
    if verb == "train":
        task.leave("told", train(task))
    else:
        task.leave("detections", detect(task))
