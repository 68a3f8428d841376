"""JSON of unknown content: parsed with suspicion, and records made into columns of numbers.

Whole columns are converted together, and only a column that cannot be is looked through record by record.
"""

import json
from collections import Counter
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

NO_INTEGER = np.iinfo(np.int64).min
"""Stands in a column where there is no whole number."""

Records = list[Any]


def parsed(content: bytes) -> Any:
    """The JSON.

    Raises:
        ValueError: it is none, or a key stands twice in one object; RecursionError: it is nested too deeply.
    """
    if content.lstrip()[:1] == b"<":
        raise ValueError("it is an HTML or XML page, no JSON")
    return json.loads(content, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object, and the second would hide the first")
    return found


def written(value: Any) -> str:
    """The beginning of a value as the file has it."""
    try:
        return json.dumps(value)[:80]
    except (ValueError, RecursionError):
        return "something that is nested too deeply, or too long"


def records(content: Any, key: str) -> Records:
    """The list of that name.

    Raises:
        ValueError: there is none.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f'there is no list "{key}" at its top level')
    return found


def integers(records: Records, key: str) -> Int64[np.ndarray, " records"]:
    """A column of whole numbers; `NO_INTEGER` where there is none."""
    try:
        values = [record[key] for record in records]
        if set(map(type, values)) <= {int}:
            return np.array(values, dtype=np.int64)
    except (KeyError, TypeError, OverflowError):
        pass
    return np.array([integer(record, key) for record in records], dtype=np.int64)


def integer(record: Any, key: str) -> int:
    """The whole number of that name; `NO_INTEGER` where there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return NO_INTEGER
    return int(value) if abs(value) < 2**62 and value == int(value) else NO_INTEGER


def text(record: Any, key: str) -> str:
    """The text of that name; empty where there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else ""


def boxes(records: Records) -> Float64[np.ndarray, "records 4"]:
    """(x, y, width, height) as written; NaN where a box is not a list of four numbers."""
    try:
        values = [record["bbox"] for record in records]
        if set(map(type, chain.from_iterable(values))) <= {int, float} and set(map(len, values)) == {4}:
            return np.array(values, dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return np.array([_box(record) for record in records], dtype=np.float64).reshape(-1, 4)


def _box(record: Any) -> list[float]:
    box = record.get("bbox") if isinstance(record, dict) else None
    return [_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [np.nan] * 4


def _number(value: Any) -> float:
    """The number; NaN where there is none, or none that fits into 64 bits."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
    except OverflowError:
        return np.nan


def areas(records: Records) -> Float64[np.ndarray, " records"]:
    """The areas; 0 where there is none."""
    values = [record.get("area") for record in records]
    try:
        if set(map(type, values)) <= {int, float, NoneType}:
            return np.nan_to_num(np.array(values, dtype=np.float64), nan=0.0)
    except OverflowError:
        pass
    return np.nan_to_num(np.array([_number(value) for value in values], dtype=np.float64), nan=0.0)
