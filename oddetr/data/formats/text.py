"""What names and text mean: splits, names that are alike, numbers, and YAML whose values stay text."""

import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import yaml

from oddetr.common.untrusted import refuse_aliases

SPLITS = ("train", "val", "test")
"""The names of splits, in the order in which they are shown."""

_SPLIT = re.compile(r"(?:^|[^a-z])(train|training|valid|validation|val|test|testing)(?![a-z])")
_GLUED = re.compile(r"\s*[A-Za-z_]+:[^\s/]")
"""A key and its value without a space between them."""

Key = TypeVar("Key", bound=Hashable)


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name names: "train", "val", "test", or None.

    "train2017", "instances_train2017" and "training" are train, "valid" and "validation" are val; "trainval" is none.
    """
    found = _SPLIT.search(name.lower())
    return found and next(split for split in SPLITS if found[1].startswith(split))


def without_extension(name: str) -> str:
    """The path without its extension."""
    return posixpath.splitext(name)[0]


def grouped(names: Iterable[str], key: Callable[[str], Key]) -> dict[Key, list[str]]:
    """The names of each key."""
    groups: dict[Key, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return dict(groups)


def to_number(text: str) -> float:
    """The number, which may be infinite; NaN if it is none. Python's own `1_000` is none."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


class _PlainLoader(yaml.SafeLoader):
    """Reads scalars as text (YAML reads the class `no` as false), and refuses unknown tags and repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        require_unique([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {}


def read_yaml(content: bytes) -> dict[Any, Any]:
    """The content of a YAML file, all scalars as text.

    Raises:
        ValueError, RecursionError, yaml.YAMLError: it is no YAML, or holds no table.
    """
    try:
        refuse_aliases(content, _PlainLoader)
        found = yaml.load(content, _PlainLoader)
    except yaml.MarkedYAMLError as problem:
        raise ValueError(_explained(problem, content)) from problem
    if not isinstance(found, dict):
        raise ValueError("it holds no keys such as names, train and val")
    return found


def _explained(problem: yaml.MarkedYAMLError, content: bytes) -> str:
    """Where YAML is wrong, the line, and the usual cause."""
    number = problem.problem_mark.line if problem.problem_mark else 0
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    glued = next((index for index in range(min(number + 1, len(lines))) if _GLUED.match(lines[index])), None)
    index = number if glued is None else glued
    line = lines[index].strip()[:80] if index < len(lines) else ""
    why = problem.problem if glued is None else "there must be a space after the colon"
    return f"line {index + 1} is no YAML, {why}: {line!r}"


def require_unique(keys: list[str]) -> None:
    """Raise a ValueError if a key occurs twice in a table: readers differ in which of the two they take."""
    if len(set(keys)) < len(keys):
        twice, _ = Counter(keys).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} occurs twice in one table")
