"""Read files that a stranger may have written, without running anything in them."""

import json
import math
import pickle
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from oddetr.common.regular_files import require_regular

if TYPE_CHECKING:
    from torch import Tensor


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read, or is no regular file; ValueError: it is no JSON.
    """
    require_regular(file)
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold. (Booleans are no numbers.)"""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)


def read_number(value: Any) -> float | None:
    """Convert a JSON value to a finite float; None for null, NaN and infinity.

    Raises:
        ValueError: it is no number, or an integer that no float holds.
    """
    if value is not None and not is_number(value):
        raise ValueError(f"{reprlib.repr(value)} is no number")
    return float(value) if value is not None and math.isfinite(value) else None


def read_count(value: Any) -> int:
    """Check that a JSON value is a whole number from 0 to 2^53.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 0 <= value <= 2**53:
        raise ValueError(f"{reprlib.repr(value)} is no count")
    return value


def read_normalisation(content: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read `mean` and `std`, with which RGB in [0, 1] is normalised.

    Raises:
        KeyError, TypeError, ValueError: they are not three finite numbers each, the standard deviations above 0.
    """
    for name in ("mean", "std"):
        values = content[name]
        if len(values) != 3 or not all(is_number(value) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {reprlib.repr(values)}; it must be three numbers.")
    if min(content["std"]) <= 0:
        raise ValueError(f"std is {content['std']}; it must be above 0.")
    return tuple(map(float, content["mean"])), tuple(map(float, content["std"]))


class NotTheFile(ValueError):
    """A file of weights is only a stand-in for it, or cut off; the message says which, and the cure."""


def read_weights_only(file: Path, **options: Any) -> Any:
    """Read a file of `torch.save` that holds only tensors, numbers, text, lists and dicts, to the CPU.

    Args:
        options: of `torch.load`.

    Raises:
        OSError: it is not there, or no regular file.
        NotTheFile: it is a pointer of Git LFS, an HTML page, or torn.
        ValueError: it is damaged, or holds anything else, whose reading could run code.
    """
    import torch

    require_regular(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, **options)
    except Exception as error:
        _refuse_stand_in(file, error)
        # torch's own message for a refused pickle advises to load it without this protection.
        refused = isinstance(error, pickle.UnpicklingError)
        found = re.search(r"GLOBAL ([\w.]{1,100}) ", str(error)) if refused else None
        other = f"it holds something else ({found[1]})" if found else "it holds something else, or is no such file"
        why = other if refused else str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{file} cannot be read as weights only: {why or 'it is empty or cut off'}. Files that hold more than "
            "weights are refused, since reading them may run code."
        ) from error


def read_safetensors(file: Path) -> "dict[str, Tensor]":
    """Read the tensors of a safetensors file by name, to the CPU.

    Raises:
        OSError: it is not there, or no regular file; SafetensorError: it is damaged.
        NotTheFile: it is a pointer of Git LFS, an HTML page, or torn.
    """
    from safetensors.torch import load_file

    require_regular(file)
    try:
        return load_file(file)
    except Exception as error:
        _refuse_stand_in(file, error)
        raise


def _refuse_stand_in(file: Path, error: Exception) -> None:
    """Raises NotTheFile where that explains why a file of weights could not be read."""
    with file.open("rb") as content:
        start = content.read(64)
    older = start[:1] == b"\x80" and (isinstance(error, EOFError) or "unexpected EOF" in str(error))
    if start.startswith(b"version https://git-lfs"):
        problem = "is a pointer of Git LFS, not the file itself: run git lfs pull where it lies, or download it"
    elif re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE):
        problem = "is an HTML page, not the file: open its address in a browser; it may ask for a login"
    elif older or "not fully covered" in str(error) or (start[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(file)):
        problem = "is torn: its end is missing. Download it again, or copy it again"
    else:
        return
    raise NotTheFile(f"{file} {problem}.") from error


def refuse_aliases(content: str | bytes, loader: Any) -> None:
    """Refuse aliases (`*name`) in YAML: a few hundred bytes of them can unfold to more than memory holds.

    Args:
        loader: the class that will load the content; its parser is used.

    Raises:
        yaml.YAMLError: there is one, and where; or this is no YAML.
    """
    for event in yaml.parse(content, loader):
        if isinstance(event, yaml.AliasEvent):
            problem = f"*{event.anchor[:40]} stands for another part of it, which is not read; write that out here"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def refuse_imports(content: Any) -> None:
    """Refuse a configuration in which anything, however deep, names a class to import (`class_path`).

    Raises:
        ValueError: there is one.
    """
    parts = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    for name, part in parts:
        if name == "class_path":
            raise ValueError(f"class_path ({part!r}) names what would be imported, which no field takes; leave it out.")
        refuse_imports(part)
