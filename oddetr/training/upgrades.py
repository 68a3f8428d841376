"""Configurations that an older oddetr recorded, in today's fields."""

from typing import Any

from oddetr.common.nested import flat, nested

GONE: dict[str, Any] = {
    "distillation.matching.layers": "same",
    "distillation.matching.box_power": 1.0,
    "distillation.matching.boxes": "both",
    "distillation.matching.carry_by": "token",
    "distillation.prediction.confidence_power": 1.0,
    "distillation.prediction.min_confidence": 0.0,
    "distillation.prediction.divide_by": "objects",
    "distillation.auxiliary.apart": False,
    "distillation.auxiliary.pool": "layers",
    "distillation.auxiliary.distinct": False,
    "distillation.auxiliary.anchors": "initial",
}
"""Fields of oddetr 0.1.0, and the value with which they do what is done without them."""
_AS_IN_0_1: dict[str, Any] = {"distillation.auxiliary.rivals": 0, "distillation.matching.queries": "own"}
"""What was done before there were these fields."""


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, nested or with dotted names, in today's fields.

    Raises:
        ValueError: it sets a field that is gone to what cannot be done any more.
    """
    values = dict(values)
    if "tensorboard" in values:
        values.setdefault("loggers", ["tensorboard"] if values.pop("tensorboard") else [])
    part = values.get("distillation")
    if isinstance(part, dict):
        return values | nested(_upgraded(flat({"distillation": part})))
    return _upgraded(values)


def _upgraded(dotted: dict[str, Any]) -> dict[str, Any]:
    for name, value in GONE.items():
        if dotted.get(name, value) != value:
            raise ValueError(
                f"{name} is {dotted[name]}, which only oddetr 0.1 can do: it never helped, and is gone. Leave it out, "
                "or use oddetr 0.1."
            )
    kept = {name: value for name, value in dotted.items() if name not in GONE}
    return kept if len(kept) == len(dotted) else _AS_IN_0_1 | kept
