"""Files that somebody else may have written: read within limits, and nothing in them is executed."""

import json
import math
import re
import reprlib
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


PER_LAYER = ("instability", "normalised_instability", "normalised_instability_by_slot", "unstable_score")
"""Scores of a validation that are lists, a number for each decoder layer; or null."""


def read_scores(table: Any) -> dict[str, Any]:
    """Scores as a validation writes them into JSON: a number or null by name; those of classes in an object
    (`per_class`), those of decoder layers in lists (`PER_LAYER`). All numbers as floats.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(table, dict):
        raise ValueError(f"scores are {reprlib.repr(table)}, not an object")
    scores: dict[str, Any] = {}
    for name, value in table.items():
        if name == "per_class" and isinstance(value, dict):
            scores[name] = {key: read_number(inner) for key, inner in value.items()}
        elif name in PER_LAYER and isinstance(value, list):
            scores[name] = [read_number(inner) for inner in value]
        elif name == "per_class" or (name in PER_LAYER and value is not None):
            raise ValueError(f"{name} is {reprlib.repr(value)}")
        else:
            scores[name] = read_number(value)
    return scores


def read_number(value: Any) -> float | None:
    """A number of a JSON file, or null.

    Raises:
        ValueError: it is something else, or an integer that no float holds.
    """
    if value is not None and not is_number(value):
        raise ValueError(f"{reprlib.repr(value)} is no number")
    return None if value is None else float(value)


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
