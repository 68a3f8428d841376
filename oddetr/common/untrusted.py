"""Read files that a stranger may have written: within limits, and without running anything in them."""

import argparse
import json
import math
import pickle
import reprlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from oddetr.common.regular import TooLarge, read_regular, require_regular

if TYPE_CHECKING:
    from torch import Tensor

MOST_JSON = 64 * 2**20
"""The largest JSON file, in bytes, that describes a checkpoint or a run; 10,000 classes take 1 MB."""


def read_json(file: Path, most: int = MOST_JSON) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, or is no regular file; ValueError: it is no JSON, or too large.
    """
    try:
        return json.loads(read_regular(file, most))
    except TooLarge as error:
        raise ValueError(f"{error}.") from error
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply.") from error
    except ValueError as error:
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
    mean, std = content["mean"], content["std"]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(is_number(value) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {reprlib.repr(values)}; it must be three numbers.")
    if min(std) <= 0:
        raise ValueError(f"std is {std}; it must be above 0.")
    return tuple(map(float, mean)), tuple(map(float, std))


def read_weights_only(file: Path, **options: Any) -> Any:
    """Read a file of `torch.save` that holds only tensors, numbers, text, lists and dicts, to the CPU.

    Beside `torch.load(weights_only=True)` this bounds memory: the content may not be larger than the file.

    Args:
        options: of `torch.load`.

    Raises:
        OSError: it is not there, or no regular file.
        ValueError: it holds anything else, whose reading could run code; it is damaged; or its content is larger.
    """
    import torch

    require_regular(file)
    try:
        _check_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True, **options)
        _check_tensors(content, file.stat().st_size)
    except Exception as error:
        # torch's own message for a refused pickle advises to load it without this protection.
        refused = isinstance(error, pickle.UnpicklingError)
        why = "it holds something else, or is no such file" if refused else str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{file} cannot be read as weights only: {why or 'it is empty or cut off'}. Files that hold more than "
            "weights are refused, since reading them may run code."
        ) from error
    return content


def _check_archive(file: Path) -> None:
    """Refuse an archive whose members are larger than the file: `torch.save` neither compresses nor shares bytes.

    Files from before PyTorch 1.6 are no archives.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return
        with zipfile.ZipFile(stream) as archive:
            total = sum(member.file_size for member in archive.infolist())
    if total > size:
        raise ValueError(f"it declares {total:,} bytes of content, but has only {size:,}")


def _check_tensors(content: Any, size: int) -> None:
    """Refuse tensors that repeat their values (stride 0), hold none, or need more than `size` bytes together."""
    import torch

    stored: dict[int, int] = {}
    for tensor in _tensors(content):
        shape = " x ".join(map(str, tensor.shape))
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"a tensor of {shape} is sparse, or holds no values")
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(f"a tensor of {shape} has only {storage.nbytes():,} bytes of values")
    if sum(stored.values()) > size:
        raise ValueError(f"its tensors have {sum(stored.values()):,} bytes, but the file has only {size:,}")


def _tensors(content: Any) -> "Iterator[Tensor]":
    """Find all tensors in nested containers. Visits each container once: they may contain one another many times."""
    from torch import Tensor

    waiting, seen = [content], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, argparse.Namespace):
            waiting.append(vars(part))
        elif isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set):
            waiting += part


def read_safetensors(file: Path) -> "dict[str, Tensor]":
    """Read the tensors of a safetensors file by name, to the CPU.

    Raises:
        OSError: it is not there, or no regular file; SafetensorError: it is damaged.
    """
    from safetensors.torch import load_file

    require_regular(file)
    return load_file(file)


def refuse_aliases(content: str | bytes, loader: Any) -> None:
    """Refuse aliases (`*name`) in YAML, with which a few hundred bytes can unfold to more than memory holds.

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
