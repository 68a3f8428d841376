"""A training in a process of its own, on a disk that lists its files backwards: listing.py ARGUMENTS."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

_scandir, _listdir = os.scandir, os.listdir


class Backwards:
    """What `os.scandir` gives, the last name first."""

    def __init__(self, path: Any = ".") -> None:
        with _scandir(path) as found:
            self.entries = iter(sorted(found, key=lambda entry: entry.name, reverse=True))

    def __enter__(self) -> "Backwards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self.entries

    def __next__(self) -> Any:
        return next(self.entries)

    def close(self) -> None:
        """Nothing is open."""


def listed_backwards(path: Any = ".") -> list[Any]:
    return sorted(_listdir(path), reverse=True)


if __name__ == "__main__":
    os.scandir, os.listdir = Backwards, listed_backwards  # type: ignore[assignment,misc]

    import torch

    import oddetr

    torch.set_num_threads(1)
    oddetr.train(**json.loads(sys.argv[1]))
