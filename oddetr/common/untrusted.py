"""Files that somebody else may have written: read within limits, and nothing in them is executed."""

import argparse
import json
import math
import re
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
"""Bytes of a JSON file that describes a checkpoint or a run; a description with 10,000 classes has 1 MB."""


def read_json(file: Path, most: int = MOST_JSON) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read, or is no regular file; ValueError: it is no JSON, or has more than `most` bytes.
    """
    try:
        return json.loads(read_regular(file, most))
    except TooLarge as error:
        raise ValueError(f"{error}.") from error
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
        OSError: it is not there, or no regular file.
        ValueError: it holds anything else, whose reading could execute code; or it is no such file, or torn; or what
            is in it has more bytes than the file.
    """
    import torch

    require_regular(file)
    try:
        _require_stored(file)
        content = torch.load(file, map_location="cpu", weights_only=True, **options)
        _require_no_larger(content, file.stat().st_size)
    except Exception as error:
        why = re.sub("\x1b\\[[0-9;]*m", "", next(iter(str(error).splitlines()), "it is empty, or torn"))
        why = why.partition(". In PyTorch 2.6")[0]  # what follows is the advice to execute what is in the file
        raise ValueError(
            f"{file} cannot be read as weights only ({type(error).__name__}: {why}). Files that hold more than weights "
            "are refused, since reading them may execute what is in them."
        ) from error
    return content


_ZIP = b"PK\x03\x04"
"""How the files of `torch.save` begin; those from before PyTorch 1.6 do not."""


def _require_stored(file: Path) -> None:
    """`torch.save` compresses nothing, and writes nothing twice: what is in its file is no larger than the file.

    Raises:
        ValueError, zipfile.BadZipFile: what is in this one is.
    """
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
    packed = next((member.filename for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise ValueError(f"{packed!r} in it is compressed, which torch.save never does")
    total, size = sum(member.file_size for member in members), file.stat().st_size
    if total > size:
        raise ValueError(f"what is in it is said to have {total:,} bytes, and the file has {size:,}")


def _require_no_larger(content: Any, size: int) -> None:
    """No tensor repeats its values, as one with a stride of 0 does, and all values together are no more than `size`
    bytes.

    Raises:
        ValueError: one does, they are, or a tensor is none of plain numbers.
    """
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
        raise ValueError(f"its tensors have {sum(stored.values()):,} bytes, and the file has {size:,}")


def _tensors(content: Any) -> "Iterator[Tensor]":
    """All tensors in dicts, lists and their like, each part once: parts may stand in one another many times."""
    from torch import Tensor

    waiting, seen = [content], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set):
            waiting += part
        elif isinstance(part, argparse.Namespace):
            waiting.append(vars(part))


def read_safetensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file by name, on the CPU.

    Raises:
        OSError: it is not there, or no regular file; SafetensorError: it is no such file, or torn.
    """
    from safetensors.torch import load_file

    require_regular(file)
    return load_file(file)


def refuse_aliases(content: str | bytes, loader: Any) -> None:
    """Of YAML: no part may stand for another (`*name`), which lets a few hundred bytes mean more than memory holds.

    Args:
        loader: what the content will be read by; its parser is asked.

    Raises:
        yaml.YAMLError: one does; says where. Or it is no YAML.
    """
    for event in yaml.parse(content, loader):
        if isinstance(event, yaml.AliasEvent):
            told = f"*{event.anchor[:40]} stands for another part of it, which is not read; write that out here"
            raise yaml.MarkedYAMLError(problem=told, problem_mark=event.start_mark)


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
