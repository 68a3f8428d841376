"""The format of validation scores in JSON: in `metrics.jsonl` and in a checkpoint's description."""

import reprlib
from typing import Any

from oddetr.common.untrusted import is_number, read_number

MODELS = ("teacher", "student")
"""The detectors that have scores."""
PER_CLASS = "per_class"
"""The score that is a dict: AP by class name."""
PER_LAYER = {"instability": 1, "normalised_instability": 1, "normalised_instability_by_slot": 1, "unstable_score": 2}
"""The scores that are lists, a number or null for each decoder layer; by name, the layer of the first."""


def read_scores(table: Any) -> dict[str, Any]:
    """Read a detector's scores, numbers as floats. A score of another kind is left out, or null in a list over layers.

    Raises:
        ValueError: `table` is not a dict.
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
