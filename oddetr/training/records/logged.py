"""Name a run's numbers and parameters so that TensorBoard, MLflow and Weights & Biases all accept them."""

import math
import re
from collections.abc import Iterable
from typing import Any

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.nested import flat
from oddetr.common.untrusted import is_number
from oddetr.evaluation.scores_json import MODELS, PER_CLASS, PER_LAYER

_LONGEST = 200
"""Characters of a class's or parameter's name; MLflow takes 250 with the prefix."""


def logged_values(event: dict[str, Any]) -> dict[str, float]:
    """Name the numbers of an event of `metrics.jsonl` (see `RunLog`), without those that are null or not finite.

    train/loss, train/loss_l1, train/learning_rate      of `train`
    epoch, epoch/seconds, epoch/images_per_second       of `epoch`
    val/teacher/AP, val/student/AP50                    scores in 0-1
    val/teacher/AP_per_class/NAME                       see `plain_names`
    val/teacher/instability                             of the last decoder layer
    val/teacher/instability_per_layer/1                 of each, from 1
    """
    kind = event["kind"]
    values = {f"{kind}/{name}": value for name, value in event.items() if name not in ("kind", "step", "epoch")}
    if kind == "epoch":
        values["epoch"] = event["epoch"]
    for model in MODELS:
        values |= {f"val/{model}/{name}": value for name, value in _scores(event.get(model, {})).items()}
    return _finite(values)


def _scores(scores: dict[str, Any]) -> dict[str, Any]:
    found = dict(scores)
    for name, first in PER_LAYER.items():
        if layers := scores.get(name):
            found |= {f"{name}_per_layer/{layer}": value for layer, value in enumerate(layers, start=first)}
            found[name] = layers[-1]
    classes: dict[str, Any] = scores.get(PER_CLASS, {})
    return found | {f"AP_per_class/{plain}": classes[name] for name, plain in plain_names(classes).items()}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Give each class a name of letters a-z and A-Z, digits, `_`, `-` and spaces.

    Other characters become `_`. If an earlier class has the name already, the class's index is appended:
    ["a/b", "a:b"] -> ["a_b", "a_b_1"].
    """
    found: dict[str, str] = {}
    for index, name in enumerate(names):
        plain = re.sub(r"[^a-zA-Z0-9_ -]", "_", name)[:_LONGEST].strip() or "_"
        while plain in found.values():
            plain += f"_{index}"
        found[name] = plain
    return found


def parameters(info: CheckpointInfo) -> dict[str, Any]:
    """Flatten a run's configuration to dotted names (`optimizer.learning_rate`), and add the names of the `classes` and
    the packages' versions (`version.torch`)."""
    values = flat(info.configuration | {"classes": ", ".join(info.classes.names), "version": info.versions})
    return {re.sub(r"[^a-zA-Z0-9_. -]", "_", name)[:_LONGEST]: value for name, value in values.items()}


def best_values(description: dict[str, Any]) -> dict[str, float]:
    """Take `best/epoch`, `best/teacher/AP` and `best/student/AP` from the content of a `checkpoint.json`."""
    scores = {f"best/{model}/AP": scores.get("AP") for model, scores in description["metrics"].items()}
    return _finite({"best/epoch": description["epoch"], **scores})


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if is_number(value) and math.isfinite(value)}
