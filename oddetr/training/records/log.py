"""Write and read a run's metrics.jsonl (every event) and metrics.csv (a row per epoch), and measure what they hold."""

import csv
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oddetr.common.durable import sync, write_file, writing
from oddetr.common.regular import read_regular
from oddetr.common.untrusted import read_count, read_number
from oddetr.evaluation.scores import MODELS, PER_CLASS, PER_LAYER, read_scores
from oddetr.training.processes import is_first_process

MOST_EVENTS = 2**28
"""Largest metrics.jsonl in bytes; 300 epochs of 1,200 classes take a tenth of it."""


class StepMeans:
    """Average the loss and its parts over optimizer steps, on the device until they are read.

    Each batch has its share of its step's loss (`Batch.step_objects`), so the shares of a step are summed. A part that
    only some steps have is averaged over these. Skipped steps do not count.
    """

    def __init__(self, steps_done: int = 0) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._step: dict[str, Tensor] = {}
        self._since = self._done = steps_done

    def steps(self, steps_done: int) -> int:
        """Return how many steps were added since the last `read`."""
        return steps_done - self._since

    def add(self, shares: Mapping[str, Tensor], steps_done: int, left_out: bool = False) -> None:
        """Add one batch; `steps_done` includes the step that it finishes, if any; `left_out`: that was skipped."""
        _add(self._step, shares)
        if steps_done > self._done:
            if not left_out:
                _add(self._sums, self._step)
                self._steps.update(self._step.keys())
            self._step, self._done = {}, steps_done

    def read(self, steps_done: int) -> dict[str, float]:
        """Return the means since the last `read`, empty if there was no step. Waits for the device."""
        sums, steps = self._sums, self._steps
        self._sums, self._steps, self._since = {}, Counter(), steps_done
        values: list[float] = torch.stack(list(sums.values())).tolist() if steps else []
        return {name: value / steps[name] for name, value in zip(sums, values, strict=False) if steps[name]}


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


class Speed:
    """Measure the time of training without its pauses, images per second, and the share of time spent waiting for data.

    Waiting is the time between a step's end, or the epoch's start, and the next step's start: loading, and the copy to
    the device. Only the host's clock is read, so no step waits for the device.
    """

    def __init__(self) -> None:
        self.images, self.waiting, self.working = 0, 0.0, 0.0
        self._mark: float | None = None

    def go_on(self) -> None:
        """Start waiting for a batch."""
        self._mark = time.perf_counter()

    def step_begins(self) -> None:
        """Start a step."""
        now = time.perf_counter()
        if self._mark is not None:
            self.waiting += now - self._mark
        self._mark = now

    def step_ends(self, images: int) -> None:
        """End a step on a batch of `images`."""
        now = time.perf_counter()
        self.working += now - (self._mark or now)
        self.images += images
        self._mark = now

    def pause(self) -> None:
        """Stop the clock, for a validation for example."""
        self._mark = None

    @property
    def seconds(self) -> float:
        """Time of steps and of waiting for data."""
        return self.waiting + self.working

    @property
    def images_per_second(self) -> float:
        """Images per second since the start, without pauses."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """Share of time spent waiting for data, in [0, 1]."""
        return self.waiting / max(self.seconds, 1e-9)


def peak_memory_gib() -> float:
    """Return the peak memory: the device's on CUDA, else this process's; NaN where the system does not report it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class RunLog:
    """Append events to `metrics.jsonl`, and keep `metrics.csv` of the epochs beside it.

    An event is a JSON object with `kind` and `step`. `train`: losses and their like, means over the steps since the
    last. Both: `epoch`, from 1; `seconds` since the first step, over all parts of a resumed run; `training_seconds`, of
    steps and of waiting for data alone (no validation, no checkpoints). `epoch`: speed and memory; with matching
    distillation `matching_carried` and `matching_disagreement`, means over the epoch's steps (those since it was
    resumed, where it was stopped within); where steps that are not finite are skipped `skipped_steps`, of the run so
    far; and where the epoch was validated, under `teacher` and `student`, COCO's scores in 0-1 and, a number for each
    decoder layer, `instability` and `normalised_instability` (null in the first validation) and `unstable_score` (from
    the second layer on); of detectors that choose their queries from tokens also `normalised_instability_by_slot`.

    Args:
        folder: the run's.
        steps_done: where a resumed run goes on; later events are dropped, since their steps are done again.
    """

    def __init__(self, folder: Path, steps_done: int = 0) -> None:
        self.file = folder / "metrics.jsonl"
        self.table = folder / "metrics.csv"
        kept = [event for event in read_events(folder) if event["step"] <= steps_done]
        if is_first_process():
            with writing(folder):
                write_file(self.file, "".join(json.dumps(event) + "\n" for event in kept))

    def add(self, event: dict[str, Any]) -> None:
        """Append one event; an epoch also becomes a row of the table."""
        with self.file.open("a") as stream:
            stream.write(json.dumps(event) + "\n")
        if event["kind"] == "epoch":
            self._write_table()

    def sync(self) -> None:
        """Wait until the events are on the disk, so that no checkpoint is newer than the records beside it."""
        sync(self.file)

    def _write_table(self) -> None:
        rows = [table_row(event) for event in read_events(self.file.parent) if event["kind"] == "epoch"]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.table, table.getvalue())


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read the events of a run's `metrics.jsonl`, oldest first, without lines that are torn or damaged.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `MOST_EVENTS` bytes.
    """
    file = folder / "metrics.jsonl"
    events: list[dict[str, Any]] = []
    for line in read_regular(file, MOST_EVENTS).splitlines() if file.exists() else []:
        with suppress(ValueError, RecursionError):
            events.append(_event(json.loads(line)))
    return events


def _event(written: Any) -> dict[str, Any]:
    """Read one event; a value that is not of its kind is left out by itself, so that no epoch is lost for one score.

    Raises:
        ValueError: it is no event, or does not say of which step and epoch.
    """
    kind = written.get("kind") if isinstance(written, dict) else None
    if kind not in ("train", "epoch"):
        raise ValueError("it is no event")
    event: dict[str, Any] = {"kind": kind, "step": read_count(written.get("step"))}
    if kind == "epoch":
        event["epoch"] = read_count(written.get("epoch"))
    for name, value in written.items():
        with suppress(ValueError):
            if name in MODELS:
                event[name] = _ALWAYS | read_scores(value)
            elif name not in event:
                event[name] = read_count(value) if name in _COUNTS else read_number(value)
    return event


def table_row(event: dict[str, Any]) -> dict[str, Any]:
    """Name an epoch's numbers by column: `teacher AP`, `teacher AP CLASS`, instability of the last layer."""
    row = {name: value for name, value in event.items() if name not in ("kind", *MODELS)}
    for model in MODELS:
        if model in event:
            row |= {f"{model} {name}": value for name, value in _columns(event[model]).items()}
    return row


_COUNTS = ("step", "epoch", "skipped_steps")
"""Fields of an event that are whole numbers."""
_ALWAYS: dict[str, Any] = {"AP": None, PER_CLASS: {}, "normalised_instability": None}
"""Scores that every reader counts on, and what stands for a missing one."""
_NESTED = (PER_CLASS, *PER_LAYER)


def _columns(scores: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in scores.items() if name not in _NESTED}
    last = (scores["normalised_instability"] or [None])[-1]
    classes = {f"AP {name}": value for name, value in scores[PER_CLASS].items()}
    return plain | {"normalised instability": last} | classes
