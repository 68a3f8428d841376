"""The values of a JSON record, which may be of any kind."""

import math
from collections.abc import Iterable
from typing import Any

from oddetr.data.formats.text import to_number

Id = int | str


def id_of(record: Any, key: str) -> Id | None:
    """The id of that name: a whole number, which may be written as a float or as text, or other text; None if there is
    none."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and len(text) < 19 else text or None
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value) if abs(value) < 2**62 else None
    return None


def integer(record: Any, key: str) -> int | None:
    """The whole number of that name; None if there is none."""
    value = id_of(record, key)
    return value if isinstance(value, int) else None


def numbered(ids: Iterable[Id]) -> dict[Id, int]:
    """The ids as numbers: as they are if all are, else 1, 2, ... in their order."""
    ids = list(ids)
    if all(isinstance(id, int) for id in ids):
        return {id: int(id) for id in ids}
    return {id: number for number, id in enumerate(ids, start=1)}


def text_of(record: Any, key: str) -> str:
    """The text of that name; empty if there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else ""


def number_of(value: Any) -> float:
    """The number, which may be written as text; NaN if it is none, or none that fits into 64 bits."""
    if isinstance(value, str):
        return to_number(value.strip())
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan
