"""Read configurations that an older oddetr recorded."""

from typing import Any

from oddetr.common.nested import flat, nested

GONE: dict[str, Any] = {
    "matching.layers": "same",
    "matching.box_power": 1.0,
    "matching.boxes": "both",
    "matching.carry_by": "token",
    "prediction.confidence_power": 1.0,
    "prediction.min_confidence": 0.0,
    "prediction.divide_by": "objects",
    "auxiliary.apart": False,
    "auxiliary.pool": "layers",
    "auxiliary.distinct": False,
    "auxiliary.anchors": "initial",
}
"""Fields of `distillation` in oddetr 0.1, and the value at which they change nothing."""
_AS_IN_0_1: dict[str, Any] = {"auxiliary.rivals": 0, "queries": "teacher"}
"""Fields of `distillation` that oddetr 0.1 did not have, and the value at which they do what it did."""

PADDED_BEFORE = {"pad_to": 1}
"""The padding of batches in runs from before `pad_to`, which is now chosen for each machine."""


class GoneFieldError(ValueError):
    """A configuration of oddetr 0.1 sets a field that is gone to something that cannot be done any more."""


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Translate a configuration, whole or in part, that an older oddetr recorded into today's fields.

    Raises:
        ValueError: a field that is gone has a value that cannot be had any more.
    """
    values = dict(values)
    if "tensorboard" in values:
        values.setdefault("loggers", ["tensorboard"] if values.pop("tensorboard") else [])
    if not isinstance(values.get("distillation"), dict):
        return values
    fields = flat(values["distillation"])
    for name, value in GONE.items():
        if fields.get(name, value) != value:
            raise GoneFieldError(
                f"distillation.{name} is {fields[name]}, which only oddetr 0.1 can do: it never helped, and is gone. "
                "Leave it out, or use oddetr 0.1."
            )
    kept = {name: value for name, value in fields.items() if name not in GONE}
    return values | {"distillation": nested(_AS_IN_0_1 | kept)} if len(kept) < len(fields) else values
