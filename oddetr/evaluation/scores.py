"""What a validation's scores look like in JSON: in `metrics.jsonl`, and in a checkpoint's description."""

import reprlib
from typing import Any

from oddetr.common.untrusted import is_number, read_number

MODELS = ("teacher", "student")
"""Whose scores there are."""
PER_CLASS = "per_class"
"""AP by the class's name."""
PER_LAYER = {"instability": 1, "normalised_instability": 1, "normalised_instability_by_slot": 1, "unstable_score": 2}
"""Lists of a number for each decoder layer, or null; and the layer of the first."""


def read_scores(table: Any) -> dict[str, Any]:
    """Read a detector's scores: a number or null by name, `PER_CLASS` (a dict), `PER_LAYER` (lists); numbers as floats.

    A score that is of another kind, because a newer oddetr wrote it or the file is damaged, is left out by itself; in a
    list over layers null stands in its place.

    Raises:
        ValueError: `table` is no dict.
    """
    if not isinstance(table, dict):
        raise ValueError(f"scores are {reprlib.repr(table)}; they must be an object.")
    scores: dict[str, Any] = {}
    for name, value in table.items():
        if name == PER_CLASS:
            if isinstance(value, dict):
                scores[name] = {key: read_number(inner) for key, inner in value.items() if _is_score(inner)}
        elif name in PER_LAYER and isinstance(value, list):
            scores[name] = [read_number(inner) if is_number(inner) else None for inner in value]
        elif _is_score(value) and (value is None or name not in PER_LAYER):
            scores[name] = read_number(value)
    return scores


def _is_score(value: Any) -> bool:
    return value is None or is_number(value)
