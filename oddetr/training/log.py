"""A run's records: metrics.jsonl (every event, for machines) and metrics.csv (a row per epoch, for people)."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oddetr.training.processes import is_first_process


class StepMeans:
    """Means over optimizer steps of the loss and its parts, added up on the device and read when asked for.

    Each batch holds its share of its step's loss (`Batch.step_objects`), so the shares of a step are added.
    """

    def __init__(self, steps_done: int = 0) -> None:
        self._sums: dict[str, Tensor] = {}
        self._since = steps_done

    def steps(self, steps_done: int) -> int:
        """How many steps have been added since the last reading."""
        return steps_done - self._since

    def add(self, shares: Mapping[str, Tensor]) -> None:
        """Adds one batch."""
        for name, value in shares.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()

    def read(self, steps_done: int) -> dict[str, float]:
        """The means since the last reading, which waits for the device; empty where no step was done."""
        steps, names = self.steps(steps_done), list(self._sums)
        means = torch.stack(list(self._sums.values())).div(max(steps, 1)).tolist() if names else []
        self._sums, self._since = {}, steps_done
        return dict(zip(names, means, strict=True)) if steps else {}


class RunLog:
    """Appends events to `metrics.jsonl`, and keeps `metrics.csv` of the epochs beside it.

    An event is a JSON object with `kind` (`train`: means over the steps since the last; `epoch`: scores after an epoch,
    in 0-1) and `step`.

    Args:
        folder: the run's.
        steps_done: where the run goes on: later events, of a part of the run that is done again, are dropped.
    """

    def __init__(self, folder: Path, steps_done: int = 0) -> None:
        self.file = folder / "metrics.jsonl"
        self.table = folder / "metrics.csv"
        kept = [event for event in read_events(folder) if event["step"] <= steps_done]
        if is_first_process():
            self.file.write_text("".join(json.dumps(event) + "\n" for event in kept))

    def add(self, event: dict[str, Any]) -> None:
        """Appends one event; an epoch also becomes a row of the table."""
        with self.file.open("a") as stream:
            stream.write(json.dumps(event) + "\n")
        if event["kind"] == "epoch":
            self._write_table()

    def _write_table(self) -> None:
        rows = [_flat(event) for event in read_events(self.file.parent) if event["kind"] == "epoch"]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with self.table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run's `metrics.jsonl`, oldest first; a line that a killed process left half written is none."""
    file = folder / "metrics.jsonl"
    events: list[dict[str, Any]] = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    nested = event.get("per_class", {})
    plain = {name: value for name, value in event.items() if name not in ("kind", "per_class")}
    return plain | {f"AP {name}": value for name, value in nested.items()}
