"""Files that somebody else may have written: read within limits, and nothing in them is executed."""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_JSON = 64 * 2**20
"""Bytes of a JSON file that describes a checkpoint or a run; a description with 10,000 classes has 1 MB."""


def read_json(file: Path, most: int = MOST_JSON) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read; ValueError: it is no JSON, or has more than `most` bytes.
    """
    size = file.stat().st_size
    if size > most:
        raise ValueError(f"{file} has {size / 2**20:.0f} MB; such a file has at most {most // 2**20} MB.")
    try:
        return json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deep for JSON that anyone meant.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file can be reckoned with: no text, no truth value, no integer that no float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or math.log2(abs(value) + 1) < 1000


def read_number(value: Any) -> float | None:
    """A number of a JSON file; None where that is null, NaN or infinite.

    Raises:
        ValueError: it is something else, or an integer that no float holds.
    """
    if value is not None and not is_number(value):
        raise ValueError(f"{reprlib.repr(value)} is no number")
    return float(value) if value is not None and math.isfinite(value) else None


def read_count(value: Any) -> int:
    """A whole number of a JSON file, from 0 to 2^53.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 0 <= value <= 2**53:
        raise ValueError(f"{reprlib.repr(value)} is no count")
    return value


def read_normalisation(content: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`mean` and `std` that RGB in [0, 1] is normalised with.

    Raises:
        KeyError, TypeError, ValueError: they are not three finite numbers each, the standard deviations above 0.
    """
    mean, std = content["mean"], content["std"]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(is_number(value) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {reprlib.repr(values)}; it must be three numbers.")
    if min(std) <= 0:
        raise ValueError(f"std is {std}; it must be above 0.")
    return tuple(map(float, mean)), tuple(map(float, std))


def read_weights_only(file: Path, **options: Any) -> Any:
    """What `torch.save` wrote, as far as it is weights, numbers, text, lists and dicts; on the CPU.

    Args:
        options: of `torch.load`.

    Raises:
        ValueError: it holds anything else, whose reading could execute code; or it is no such file, or torn.
    """
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, **options)
    except FileNotFoundError:
        raise
    except Exception as error:
        why = re.sub("\x1b\\[[0-9;]*m", "", next(iter(str(error).splitlines()), "it is empty, or torn"))
        why = why.partition(". In PyTorch 2.6")[0]  # what follows is the advice to execute what is in the file
        raise ValueError(
            f"{file} cannot be read as weights only ({type(error).__name__}: {why}). Files that hold more than weights "
            "are refused, since reading them may execute what is in them."
        ) from error


def refuse_imports(content: Any) -> None:
    """Of a configuration: no value, however deep, may name something to import and make (`class_path`).

    Raises:
        ValueError: one does.
    """
    parts = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    for name, part in parts:
        if name == "class_path":
            raise ValueError(f"class_path ({part!r}) names what would be imported, which no field takes; leave it out.")
        refuse_imports(part)
