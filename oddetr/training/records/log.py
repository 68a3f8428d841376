"""Measure a training, and write and read its metrics.jsonl (all events) and metrics.csv (a row per epoch)."""

import csv
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oddetr.common.durable import write_file, writing
from oddetr.common.regular_files import require_regular
from oddetr.common.untrusted import read_count, read_number
from oddetr.evaluation.scores_json import MODELS, PER_CLASS, read_scores
from oddetr.training.processes import is_first_process
from oddetr.training.records.logged import logged_values

_COUNTS = ("step", "epoch", "skipped_steps")
"""Fields of an event that are whole numbers."""
_ALWAYS: dict[str, Any] = {"AP": None, PER_CLASS: {}, "normalised_instability": None}
"""Scores that every reader relies on, with the values of missing ones."""


class StepMeans:
    """Average the loss and its parts over optimizer steps, on the device until they are read.

    A batch holds its share of its step's loss (`Batch.step_objects`), so the batches of a step are summed. A part that
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

    def add(self, shares: Mapping[str, Tensor], steps_done: int, skipped: bool = False) -> None:
        """Add one batch; `steps_done` includes the step that it finishes, if any; `skipped`: that step was skipped."""
        _add(self._step, shares)
        if steps_done > self._done:
            if not skipped:
                _add(self._sums, self._step)
                self._steps.update(self._step.keys())
            self._step, self._done = {}, steps_done

    def read(self, steps_done: int) -> dict[str, float]:
        """Return the means since the last `read`, empty if there was no step. Waits for the device."""
        sums, steps = self._sums, self._steps
        self._sums, self._steps, self._since = {}, Counter(), steps_done
        values: list[float] = torch.stack(list(sums.values())).tolist() if sums else []
        return {name: value / steps[name] for name, value in zip(sums, values, strict=True)}


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


class Speed:
    """Measure the time of training without its pauses, images per second, and the share of time spent waiting for data.

    Waiting is the time between a step's end, or the epoch's start, and the next step's start. Only the host's clock is
    read, so no step waits for the device.

    Attributes:
        images: trained on; waiting, working: seconds.
    """

    def __init__(self) -> None:
        self.images, self.waiting, self.working = 0, 0.0, 0.0
        self._mark: float | None = None

    def start_waiting(self) -> None:
        """Start the clock; a batch is loaded next."""
        self._mark = time.perf_counter()

    def start_step(self) -> None:
        self.waiting += self._passed()

    def end_step(self, images: int) -> None:
        """End a step on a batch of `images`."""
        self.working += self._passed()
        self.images += images

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

    def _passed(self) -> float:
        """Seconds since the last call; 0 after a pause."""
        before, self._mark = self._mark, time.perf_counter()
        return 0.0 if before is None else self._mark - before


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
    """Append events to `metrics.jsonl`, and keep `metrics.csv` of the epochs, named as `logged_values` does, beside it.

    An event is a JSON object with `kind`, `step`, `epoch` (from 1), `seconds` since the first step over all parts of a
    resumed run, and `training_seconds`, of steps and of waiting for data alone.

    - `train`: the learning rate, and the loss and its parts, means over the steps since the last such event.
    - `epoch`: speed and memory; with matching distillation the means `matching_carried` and `matching_disagreement`;
      with `--non-finite skip` the `skipped_steps` of the run so far. Of a validated epoch, under `teacher` and
      `student`: COCO's scores in 0-1, and for each decoder layer `instability`, `normalised_instability` (null in the
      first validation), `unstable_score` (from the second layer on) and, of detectors that choose their queries from
      tokens, `normalised_instability_by_slot`.

    Attributes:
        before: the events that a resumed run keeps, oldest first.

    Args:
        steps_done: where a resumed run continues; later events are dropped, since their steps are repeated.
    """

    def __init__(self, folder: Path, steps_done: int = 0) -> None:
        self.file = folder / "metrics.jsonl"
        self.table = folder / "metrics.csv"
        self.before = [event for event in read_events(folder) if event["step"] <= steps_done]
        if is_first_process():
            with writing(folder):
                write_file(self.file, "".join(json.dumps(event) + "\n" for event in self.before))

    def add(self, event: dict[str, Any]) -> None:
        """Append one event; an epoch also becomes a row of the table."""
        with self.file.open("a") as stream:
            stream.write(json.dumps(event) + "\n")
        if event["kind"] == "epoch":
            self._write_table()

    def _write_table(self) -> None:
        epochs = (event for event in read_events(self.file.parent) if event["kind"] == "epoch")
        rows = [{"step": event["step"], **logged_values(event)} for event in epochs]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.table, table.getvalue())


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read the events of a run's `metrics.jsonl`, oldest first, without lines that are torn or damaged.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    file = folder / "metrics.jsonl"
    if not file.exists():
        return []
    require_regular(file)
    events: list[dict[str, Any]] = []
    for line in file.read_bytes().splitlines():
        with suppress(ValueError, RecursionError):
            events.append(_event(json.loads(line)))
    return events


def teacher_aps(events: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Return the teacher's AP by epoch, of the validated epochs that have one."""
    scored = {event["epoch"]: event["teacher"]["AP"] for event in events if "teacher" in event}
    return {epoch: ap for epoch, ap in scored.items() if ap is not None}


def out_of_patience(aps: Mapping[int, float], patience: int) -> str:
    """Say so if the last `patience` of the validations brought no better AP; empty otherwise, or if `patience` is 0."""
    best = max(aps, key=lambda epoch: aps[epoch], default=0)
    waited = sum(epoch > best for epoch in aps)
    if not patience or waited < patience:
        return ""
    return f"no better AP for {waited} validations, best {aps[best]:.3f} after epoch {best}"


def _event(written: Any) -> dict[str, Any]:
    """Read one event without the values that are of another kind. Raises ValueError if kind, step or epoch are."""
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
