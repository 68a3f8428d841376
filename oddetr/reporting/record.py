"""What a run's folder says of it: configuration, events, checkpoints; nothing is computed anew."""

import math
import shlex
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from oddetr.checkpoints.checkpoint import DESCRIPTION, CheckpointError, CheckpointInfo, find_checkpoint, read_info
from oddetr.common.untrusted import is_number, read_json
from oddetr.evaluation.scores import PER_LAYER
from oddetr.reporting.figures import Curve
from oddetr.reporting.stability import Stability, stability
from oddetr.training.plan.cautions import baseline_was_better
from oddetr.training.records.log import read_events
from oddetr.training.safety.resume import BEGINNING, CONFIGURATION


@dataclass(frozen=True)
class Record:
    """A run.

    Attributes:
        folder: the run's.
        configuration: as in its config.json.
        epochs: events of its epochs, the first to the last.
        steps: events of kind `train`.
        info: of its best checkpoint; None where it has none yet.
        beginning: what was said before the first step: `data`, `chosen`, `cautions`, `forecast`.
    """

    folder: Path
    configuration: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    steps: tuple[dict[str, Any], ...]
    info: CheckpointInfo | None
    beginning: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Reads it.

        Raises:
            FileNotFoundError: there is no run in `folder`; ValueError: its config.json is damaged.
        """
        file = folder / CONFIGURATION
        if (folder / DESCRIPTION).exists():  # transformers' detectors have a config.json of their own
            raise FileNotFoundError(f"There is no run in {folder}: it is a checkpoint. Give the folder above it.")
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no run in {folder}: it has no {CONFIGURATION}. Give the folder that `oddetr train --out` "
                "wrote."
            )
        events = read_events(folder)
        configuration = read_json(file)
        if not isinstance(configuration, dict) or not is_number(configuration.get("epochs") or 0):
            raise ValueError(f"{file} is no run's configuration: it holds no JSON object in which epochs is a number.")
        try:
            info = read_info(find_checkpoint(folder))
        except CheckpointError:
            info = None
        return cls(
            folder,
            configuration,
            tuple(event for event in events if event["kind"] == "epoch"),
            tuple(event for event in events if event["kind"] == "train"),
            info,
            _beginning(folder / BEGINNING),
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def validated(self) -> list[dict[str, Any]]:
        """The epochs with scores."""
        return [event for event in self.epochs if "teacher" in event]

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch with the teacher's highest AP; the last validated one where none has an AP."""
        scored = [event for event in self.validated if event["teacher"].get("AP") is not None]
        return (
            max(scored, key=lambda event: event["teacher"]["AP"]) if scored else next(iter(self.validated[::-1]), None)
        )

    @property
    def finished(self) -> bool:
        """Whether its last epoch is done."""
        return bool(self.epochs) and self.epochs[-1]["epoch"] >= (self.configuration.get("epochs") or math.inf)

    @property
    def distilled(self) -> bool:
        """Whether OD-DETR was on."""
        lessons = self.configuration.get("distillation")
        return isinstance(lessons, dict) and bool(lessons.get("enabled"))

    @property
    def command(self) -> str:
        """Trains the same again."""
        return f"oddetr train --config {shlex.quote(str(self.folder / CONFIGURATION))} --out NEW_FOLDER"

    def scores(self, model: str, name: str) -> Curve:
        """A score over epochs."""
        points = [(event["epoch"], event.get(model, {}).get(name)) for event in self.validated]
        kept = [(epoch, value) for epoch, value in points if value is not None]
        return Curve(model, [epoch for epoch, _ in kept], [value for _, value in kept])

    def layers(self, model: str, name: str) -> list[Curve]:
        """A number of each decoder layer over epochs."""
        found = [(event["epoch"], event.get(model, {}).get(name)) for event in self.validated]
        points = [(epoch, values) for epoch, values in found if values and None not in values]
        count = len(points[-1][1]) if points else 0
        points = [(epoch, values) for epoch, values in points if len(values) == count]
        return [
            Curve(
                f"layer {layer + PER_LAYER[name]}",
                [epoch for epoch, _ in points],
                [values[layer] for _, values in points],
            )
            for layer in range(count)
        ]

    def last_layer(self, model: str, name: str) -> Curve:
        """Of the last decoder layer."""
        layers = self.layers(model, name)
        return Curve(model, layers[-1].x, layers[-1].y) if layers else Curve(model, [], [])

    def over_steps(self, name: str, called: str) -> Curve:
        """Something of the events of kind `train`, under the name that it is `called` by."""
        kept = [(event["step"], event[name]) for event in self.steps if event.get(name) is not None]
        return Curve(called, [step for step, _ in kept], [value for _, value in kept])

    def losses(self) -> list[Curve]:
        """The loss and its parts over steps; of what fades, as long as it lasted."""
        names = dict.fromkeys(name for event in self.steps for name in event if name.startswith("loss"))
        called = {name: name.removeprefix("loss_").replace("_", " ") for name in names} | {"loss": "whole, weighted"}
        return [self.over_steps(name, called[name]) for name in names]

    def stability(self) -> Stability:
        """The verdict on the student's curve: it is the one that learns. A last validation that follows the one before
        sooner than the others did is left out: in less time less changes."""
        curve = self.last_layer("student", "normalised_instability")
        epochs, values = [int(epoch) for epoch in curve.x], list(curve.y)
        gaps = [after - before for before, after in pairwise(epochs)]
        if len(gaps) > 1 and gaps[-1] < gaps[-2]:
            epochs, values = epochs[:-1], values[:-1]
        optimizer = self.configuration.get("optimizer")
        cosine = isinstance(optimizer, dict) and optimizer.get("schedule") == "cosine"
        calmed = self.distilled or self.info is None or baseline_was_better(self.info.detector)
        return stability(epochs, values, cosine, calmed)


def _beginning(file: Path) -> dict[str, Any]:
    """What was said before the first step, as far as it can be read: texts, and the forecast's numbers."""
    try:
        told = dict(read_json(file))
    except (OSError, TypeError, ValueError):
        return {}
    forecast = told.pop("forecast", None)
    texts = {name: value for name, value in told.items() if _is_texts(value)}
    measured = forecast.items() if isinstance(forecast, dict) else ()
    return texts | {"forecast": {name: value for name, value in measured if is_number(value)}}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
