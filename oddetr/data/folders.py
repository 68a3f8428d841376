"""Names in a data folder: which split a name tells, which images there are, where a written path leads."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from oddetr.data.images import EXTENSIONS

SPLITS = ("train", "val", "test")
"""The names of splits, in the order in which they are shown."""

_SPLIT = re.compile(r"(?:^|[^a-z])(train|training|valid|validation|val|test|testing)(?![a-z])")
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:")


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name tells: "train", "val", "test", or None.

    "train2017", "instances_train2017" and "training" are train, "valid" and "validation" are val; "trainval" is none.
    """
    found = _SPLIT.search(name.lower())
    if found is None:
        return None
    return next(split for split in SPLITS if found[1].startswith(split))


def split_folders(base: Path) -> dict[str, Path]:
    """The sub-folders of `base` that are named after splits; of two for the same split, the first by name."""
    folders: dict[str, Path] = {}
    for folder in subfolders(base):
        split = split_of(folder.name)
        if split is not None:
            folders.setdefault(split, folder)
    return folders


def subfolders(base: Path) -> list[Path]:
    """The folders in `base`, sorted by name; none where `base` is no folder. Hidden ones are left out."""
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_files(root: Path, folder: Path, extensions: Iterable[str] = EXTENSIONS, below: bool = True) -> list[str]:
    """The files in `folder`, and `below` it, with one of the (lower-case) extensions, relative to `root` and sorted.

    Hidden files (macOS leaves `._name.jpg`) and hidden folders are left out.
    """
    wanted = frozenset(extensions)
    found: list[str] = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if below and not name.startswith(".")]
        base = Path(here).relative_to(root).as_posix()
        found += [
            posixpath.normpath(f"{base}/{name}")
            for name in names
            if not name.startswith(".") and posixpath.splitext(name)[1].lower() in wanted
        ]
    return sorted(found)


def inside(root: Path, base: str, written: str) -> str | None:
    """Where a path leads that a file gives relative to the folder `base` (itself relative to `root`).

    Returns:
        The path relative to `root`; None where it leads out of `root`. Backslashes count as slashes.
    """
    written = written.replace("\\", "/")
    if _WINDOWS_DRIVE.match(written):
        return None
    if written.startswith("/"):
        path = PurePosixPath(posixpath.normpath(written))
        return path.relative_to(root.absolute()).as_posix() if path.is_relative_to(root.absolute()) else None
    path = posixpath.normpath(posixpath.join(base, written))
    return None if path == ".." or path.startswith(("../", "/")) else path


def advice_outside(root: Path, written: str, base: str = ".") -> str:
    """What to write for a path that leads out of `root`, where its last parts name a file in `base`; else nothing.

    Args:
        root: the data folder.
        written: the path as the file gives it.
        base: the folder that the path should be relative to, itself relative to `root`.
    """
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("..", "/")]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    found = next((tail for tail in tails if (root / base / tail).is_file()), None)
    return f"; write {found}" if found else ""


def without_extension(name: str) -> str:
    """The path without its extension."""
    return posixpath.splitext(name)[0]


class Listing:
    """Which files there are, asked of the disk once per folder; names are compared in Unicode's composed form."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """The file's path as it is on disk, for a path relative to the root; None if there is no such file."""
        folder, base = posixpath.split(name)
        return self._names(folder).get(unicodedata.normalize("NFC", base))

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._folders:
            path = self._root / folder
            names = [entry.name for entry in os.scandir(path)] if path.is_dir() else []
            self._folders[folder] = {unicodedata.normalize("NFC", name): posixpath.join(folder, name) for name in names}
        return self._folders[folder]
