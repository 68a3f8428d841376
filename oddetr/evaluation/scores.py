"""What a validation's scores look like in JSON: in `metrics.jsonl`, and in a checkpoint's description."""

import reprlib
from typing import Any

from oddetr.common.untrusted import read_number

MODELS = ("teacher", "student")
"""Whose scores there are."""
PER_CLASS = "per_class"
"""AP by the class's name."""
PER_LAYER = {"instability": 1, "normalised_instability": 1, "normalised_instability_by_slot": 1, "unstable_score": 2}
"""Lists of a number for each decoder layer, or null; and the layer of the first."""


def read_scores(table: Any) -> dict[str, Any]:
    """The scores of a detector, with all numbers as floats: a number or null by name, `PER_CLASS`, `PER_LAYER`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(table, dict):
        raise ValueError(f"scores are {reprlib.repr(table)}; they must be an object.")
    scores: dict[str, Any] = {}
    for name, value in table.items():
        if name == PER_CLASS and isinstance(value, dict):
            scores[name] = {key: read_number(inner) for key, inner in value.items()}
        elif name in PER_LAYER and isinstance(value, list):
            scores[name] = [read_number(inner) for inner in value]
        elif name == PER_CLASS or (name in PER_LAYER and value is not None):
            raise ValueError(f"{name} is {reprlib.repr(value)}; it must hold numbers.")
        else:
            scores[name] = read_number(value)
    return scores
