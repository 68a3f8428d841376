"""Names: which split a name tells."""

import posixpath
import re

SPLITS = ("train", "val", "test")
"""The names of splits, in the order in which they are shown."""

_SPLIT = re.compile(r"(?:^|[^a-z])(train|training|valid|validation|val|test|testing)(?![a-z])")


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name tells: "train", "val", "test", or None.

    "train2017", "instances_train2017" and "training" are train, "valid" and "validation" are val; "trainval" is none.
    """
    found = _SPLIT.search(name.lower())
    if found is None:
        return None
    return next(split for split in SPLITS if found[1].startswith(split))


def without_extension(name: str) -> str:
    """The path without its extension."""
    return posixpath.splitext(name)[0]
