"""The record of a run: configuration, events and checkpoint, as read from its folder."""

import math
import shlex
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from oddetr.checkpoints.checkpoint import DESCRIPTION, CheckpointError, CheckpointInfo, find_checkpoint, read_info
from oddetr.common.nested import flat
from oddetr.common.untrusted import is_number, read_json
from oddetr.reporting.curves import Curve
from oddetr.reporting.stability import Stability, stability
from oddetr.training.records.log import out_of_patience, read_events, teacher_aps
from oddetr.training.safety.resume import CONFIGURATION, PLAN


@dataclass(frozen=True)
class Record:
    """The record of a run.

    Attributes:
        folder: the run's folder.
        configuration: the content of config.json.
        epochs: events of kind `epoch`, in order.
        steps: events of kind `train`.
        info: description of the best checkpoint; None if there is none yet.
        plan: the messages before the first step: `data`, `chosen`, `cautions`.
    """

    folder: Path
    configuration: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    steps: tuple[dict[str, Any], ...]
    info: CheckpointInfo | None
    plan: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Read the record of the run in `folder`.

        Raises:
            FileNotFoundError: there is no run in `folder`.
            ValueError: its config.json is damaged.
        """
        file = folder / CONFIGURATION
        if (folder / DESCRIPTION).exists():  # transformers' detectors have a config.json of their own
            raise FileNotFoundError(f"There is no run in {folder}: it is a checkpoint. Give the folder above it.")
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no run in {folder}: it has no {CONFIGURATION}. Give the folder that `oddetr train --out` "
                "wrote."
            )
        configuration = read_json(file)
        if not isinstance(configuration, dict) or not is_number(configuration.get("epochs") or 0):
            raise ValueError(f"{file} is no run's configuration: it holds no JSON object in which epochs is a number.")
        try:
            info = read_info(find_checkpoint(folder))
        except CheckpointError:
            info = None
        events = read_events(folder)
        epochs, steps = (tuple(event for event in events if event["kind"] == kind) for kind in ("epoch", "train"))
        return cls(folder, configuration, epochs, steps, info, _read_plan(folder))

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def validated(self) -> list[dict[str, Any]]:
        """The epochs with scores."""
        return [event for event in self.epochs if "teacher" in event]

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch with the teacher's highest AP; the last validated one if none has an AP."""
        scored = [event for event in self.validated if event["teacher"].get("AP") is not None]
        if scored:
            return max(scored, key=lambda event: event["teacher"]["AP"])
        return self.validated[-1] if self.validated else None

    @property
    def best_scores(self) -> dict[str, Any]:
        """The teacher's scores in the best epoch; empty without a validation."""
        return self.best["teacher"] if self.best else {}

    @property
    def finished(self) -> bool:
        """Whether the last epoch is complete, or the run has stopped early."""
        done = bool(self.epochs) and self.epochs[-1]["epoch"] >= (self.configuration.get("epochs") or math.inf)
        return done or bool(self.stopped)

    @property
    def stopped(self) -> str:
        """Why the run has stopped before its last epoch; empty if it has not."""
        patience = self.configuration.get("patience")
        return out_of_patience(teacher_aps(self.validated), patience) if isinstance(patience, int) else ""

    @property
    def command(self) -> str:
        """The command that trains with the same configuration."""
        return f"oddetr train --config {shlex.quote(str(self.folder / CONFIGURATION))} --out NEW_FOLDER"

    def scores(self, model: str, name: str) -> Curve:
        """A score of `teacher` or `student` by epoch."""
        return Curve.of(model, [(event["epoch"], event.get(model, {}).get(name)) for event in self.validated])

    def instability(self, model: str) -> list[Curve]:
        """The normalised instability of each decoder layer by epoch."""
        found = [(event["epoch"], event.get(model, {}).get("normalised_instability")) for event in self.validated]
        points = [(epoch, values) for epoch, values in found if values and None not in values]
        layers = len(points[-1][1]) if points else 0
        points = [(epoch, values) for epoch, values in points if len(values) == layers]
        return [
            Curve.of(f"layer {layer + 1}", [(epoch, values[layer]) for epoch, values in points])
            for layer in range(layers)
        ]

    def last_instability(self, model: str) -> Curve:
        """The normalised instability of the last decoder layer by epoch."""
        return replace([Curve(model, [], []), *self.instability(model)][-1], name=model)

    def over_steps(self, name: str, label: str) -> Curve:
        """A value of the `train` events by step."""
        return Curve.of(label, [(event["step"], event.get(name)) for event in self.steps])

    def losses(self) -> list[Curve]:
        """The loss and its components by step; those of faded terms end early."""
        names = dict.fromkeys(name for event in self.steps for name in event if name.startswith("loss"))
        labels = {name: name.removeprefix("loss_").replace("_", " ") for name in names} | {"loss": "total, weighted"}
        return [self.over_steps(name, labels[name]) for name in names]

    def stability(self) -> Stability:
        """The verdict on the student's curve of instability.

        The last validation is left out if it followed after fewer epochs than the one before: less changes in less
        time.
        """
        curve = self.last_instability("student")
        epochs, values = [int(epoch) for epoch in curve.x], list(curve.y)
        gaps = [after - before for before, after in pairwise(epochs)]
        if len(gaps) > 1 and gaps[-1] < gaps[-2]:
            epochs, values = epochs[:-1], values[:-1]
        options = flat(self.configuration)
        distilled = bool(options.get("distillation.enabled"))
        cosine = options.get("optimizer.schedule") == "cosine"
        return stability(epochs, values, cosine, calmed=distilled or self.info is None)


def _read_plan(folder: Path) -> dict[str, Any]:
    """The messages before the first step, as far as they are readable."""
    file = folder / PLAN
    try:
        content = dict(read_json(file if file.exists() else folder / "beginning.json"))  # its name in oddetr 0.1
    except (OSError, TypeError, ValueError):
        return {}
    return {
        name: value
        for name, value in content.items()
        if isinstance(value, list) and all(isinstance(text, str) for text in value)
    }
