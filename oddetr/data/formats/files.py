"""The files of a data folder: where written paths and links lead, what folders hold, what stands in text files.

A data set may come from a stranger: what its paths and links name outside of its folder is read only where the user
allows it. The folder itself may be a link, and links may lead to other places inside. Paths are given relative to the
folder, with slashes; those that lead out of it, where that is allowed, are absolute.
"""

import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from oddetr.common.regular import mode, read_regular, reason
from oddetr.data.doctor.faults import Fault
from oddetr.data.formats.folders import split_of
from oddetr.data.images import EXTENSIONS

_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:")
LONGEST_PATH = 4096
"""Characters of a path that a file can have."""


class FileFault(ValueError):
    """A file that must not or cannot be read.

    Attributes:
        fault: says which, and why.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Files:
    """What there is in a data folder, asked of the disk once per folder.

    Attributes:
        root: the folder.
        allow_outside: whether paths and links may lead out of it.
    """

    def __init__(self, root: Path, allow_outside: bool = False) -> None:
        self.root = root
        self.allow_outside = allow_outside
        self._real = Path(os.path.realpath(root))
        self._names: dict[str, dict[str, list[str]]] = {}
        self._folded: dict[str, dict[str, str]] = {}
        self._barred: dict[str, Fault | None] = {"": None, ".": None, "/": None, "//": None}

    def inside(self, base: str, written: str) -> str | None:
        """Where a path leads that a file gives relative to the folder `base`; None where it must not lead.

        Backslashes count as slashes.
        """
        written = written.replace("\\", "/")
        if _WINDOWS_DRIVE.match(written):
            return None
        path = posixpath.normpath(posixpath.join(base, written))
        if path != ".." and not path.startswith(("../", "/")):
            return path
        whole = PurePosixPath(posixpath.normpath(posixpath.join(self.root.absolute().as_posix(), path)))
        for root in (self.root.absolute(), self._real):
            if whole.is_relative_to(root):
                return whole.relative_to(root).as_posix()
        return str(whole) if self.allow_outside else None

    def advice(self, written: str, base: str = ".") -> str:
        """What to write for a path that leads out, where its last parts name a file in `base`; else nothing."""
        if len(written) > LONGEST_PATH:
            return ""
        parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("..", "/")]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        found = next((tail for tail in tails if stat.S_ISREG(mode(self.root / base / tail))), None)
        return f"; write {found}" if found else ""

    def barred(self, path: str) -> Fault | None:
        """Why a file or folder must not be looked at: it, or a folder above it, is a link that leads out, or a folder
        that cannot be listed."""
        if len(path) > LONGEST_PATH:
            return None
        unknown: list[str] = []
        while path not in self._barred:
            unknown.append(path)
            path = posixpath.dirname(path)
        fault = self._barred[path]
        for below in reversed(unknown):
            fault = self._barred[below] = fault or self._leading_out(below)
        return fault

    def _leading_out(self, path: str) -> Fault | None:
        place = self.root / path
        if self.allow_outside or not stat.S_ISLNK(mode(place, follow=False)):
            return None
        end = os.path.realpath(place)
        return None if Path(end).is_relative_to(self._real) else Fault("outside-folder", path, f"is a link to {end}")

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder, or a link to one."""
        return stat.S_ISDIR(mode(self.root / path))

    def is_file(self, path: str) -> bool:
        """Whether it is a regular file, or a link to one."""
        return stat.S_ISREG(mode(self.root / path))

    def names(self, folder: str = ".") -> list[str]:
        """The names of everything in a folder, sorted; none where it is no folder, or must not be looked at."""
        return sorted(name for alike in self._listed(folder).values() for name in alike)

    def subfolders(self, base: str = ".") -> list[str]:
        """The folders in `base`, sorted by name; none where `base` is no folder. Hidden ones are left out."""
        names = [name for name in self.names(base) if not name.startswith(".")]
        paths = [posixpath.normpath(posixpath.join(base, name)) for name in names]
        return [path for path in paths if self.is_folder(path)]

    def split_folders(self, base: str = ".") -> dict[str, str]:
        """The sub-folders of `base` that are named after splits; of two for the same split, the first by name."""
        folders: dict[str, str] = {}
        for folder in self.subfolders(base):
            split = split_of(posixpath.basename(folder))
            if split is not None:
                folders.setdefault(split, folder)
        return folders

    def files_in(
        self, folder: str, faults: list[Fault], extensions: Iterable[str] = EXTENSIONS, below: bool = True
    ) -> list[str]:
        """The files in `folder`, and `below` it, with one of the (lower-case) extensions, sorted.

        Hidden files (macOS leaves `._name.jpg`) and hidden folders are left out. Links are followed, but not up to
        folders that hold `folder`; a folder to which several lead is listed once.

        Args:
            faults: receives what must not or cannot be looked at.
        """
        wanted = frozenset(extensions)
        found: list[str] = []
        seen = {_identity(above) for above in Path(os.path.realpath(self.root / folder)).parents}
        waiting, links = [folder], [folder][:0]
        while waiting or links:
            here = waiting.pop() if waiting else links.pop(0)
            place = _identity(self.root / here)
            names = [name for name in self.names(here) if not name.startswith(".")]
            if (fault := self.barred(here)) is not None:
                faults.append(fault)
            if fault is not None or place in seen:
                continue
            seen.add(place)
            for path in [posixpath.normpath(posixpath.join(here, name)) for name in names]:
                chosen = posixpath.splitext(path)[1].lower() in wanted
                if self.is_folder(path):
                    if below:
                        is_link = stat.S_ISLNK(mode(self.root / path, follow=False))
                        (links if is_link else waiting).append(path)
                elif chosen and (fault := self.barred(path)) is not None:
                    faults.append(fault)
                elif chosen:
                    found.append(path)
        return sorted(found)

    def find(self, name: str) -> str | None:
        """The file's path as it is on disk; None if there is no such file, or none that may be looked at.

        Names are compared in Unicode's composed form where none is the same in every byte.
        """
        folder, base = posixpath.split(name)
        alike = self._listed(folder).get(unicodedata.normalize("NFC", base), [])
        if base not in alike and len(alike) != 1:
            return None
        return posixpath.join(folder, base if base in alike else alike[0])

    def similar(self, name: str) -> str | None:
        """A file whose name differs from `name` in capital letters alone."""
        folder, base = posixpath.split(name)
        if folder not in self._folded:
            names = self._listed(folder)
            self._folded[folder] = {key.casefold(): names[key][0] for key in sorted(names, reverse=True)}
        found = self._folded[folder].get(unicodedata.normalize("NFC", base).casefold())
        return None if found is None else posixpath.join(folder, found)

    def read(self, file: str, most: int) -> bytes:
        """The content of a file of at most `most` bytes.

        Raises:
            FileFault: it must not or cannot be read.
        """
        fault = self.barred(file)
        if fault is not None:
            raise FileFault(fault)
        try:
            return read_regular(self.root / file, most)
        except (OSError, ValueError, MemoryError) as problem:
            raise FileFault(Fault("malformed-file", file, reason(problem))) from problem

    def read_text(self, file: str, most: int) -> str:
        """The same as text in UTF-8, with or without a byte order mark.

        Raises:
            FileFault: it must not or cannot be read, or it is no such text.
        """
        try:
            return self.read(file, most).decode("utf-8-sig")
        except UnicodeDecodeError as problem:
            raise FileFault(Fault("malformed-file", file, f"it is no text in UTF-8: {problem}")) from problem

    def _listed(self, folder: str) -> dict[str, list[str]]:
        """The names of everything in a folder that may be looked at, by their composed form."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                allowed = self.barred(folder) is None
                entries = sorted(entry.name for entry in os.scandir(self.root / folder)) if allowed else []
            except (OSError, ValueError) as problem:
                entries = []
                if self.is_folder(folder):
                    self._barred[folder] = Fault("unreadable-folder", folder or ".", reason(problem))
            for name in entries:
                names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
            self._names[folder] = names
        return self._names[folder]


def _identity(path: Path) -> tuple[int, int]:
    """The same for all paths that lead to one folder."""
    try:
        status = path.stat()
        return status.st_dev, status.st_ino
    except (OSError, ValueError):
        return -1, -1
