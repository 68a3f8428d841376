"""The files of a data folder: where paths and links lead, what folders hold, and what files say.

A data set may come from a stranger: what its paths and links name outside of its folder is read only if the user
allows it. The folder itself may be a link, and links may lead to other places inside it. Paths are given relative to
the folder, with slashes; those that lead out of it, where that is allowed, are absolute.
"""

import os
import posixpath
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from oddetr.common.regular_files import mode, read_regular, reason
from oddetr.data.faults import Fault
from oddetr.data.formats.text import grouped, split_of, without_extension
from oddetr.data.images import is_image

_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:")
_LONGEST_PATH = 4096
"""Characters of the longest path that a file can have."""

_MOST_ENDS = 32
"""Ends of a path that are tried at most."""

Parsed = TypeVar("Parsed")


class Files:
    """The files of a data folder, each folder listed once, and what a reader finds wrong with them.

    Attributes:
        allow_outside: whether paths and links may lead out of it.
        given: the file of annotations that the user named, relative to the folder; None: the folder was named.
        faults: what was found to be wrong.
        notes: what the reader decided where the files left a choice, in whole sentences.
    """

    def __init__(self, root: Path, allow_outside: bool = False, given: str | None = None) -> None:
        self.root = root
        self.allow_outside = allow_outside
        self.given = given
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self._real = Path(os.path.realpath(root))
        self._names: dict[str, dict[str, list[str]]] = {}
        self._barred: dict[str, Fault | None] = {}

    def add(self, kind: str, file: str, message: str, place: int | None = None, image: str = "") -> None:
        """Add a fault; see `Fault`."""
        self.faults.append(Fault(kind, file, message, place, image))

    def probe(self) -> "Files":
        """The same folder, for questions whose faults do not matter."""
        return Files(self.root, self.allow_outside, self.given)

    def resolve(self, written: str, base: str = ".") -> str | None:
        """The path that a file gives relative to the folder `base`; None if it leads out, and must not.

        Backslashes count as slashes.
        """
        written = written.replace("\\", "/")
        if _WINDOWS_DRIVE.match(written):
            return None
        path = posixpath.normpath(posixpath.join(base, written))
        if path != ".." and not path.startswith(("../", "/")):
            return path
        absolute = self.root.absolute()
        target = PurePosixPath(posixpath.normpath(posixpath.join(absolute.as_posix(), path)))
        for root in (absolute, self._real):
            if target.is_relative_to(root):
                return target.relative_to(root).as_posix()
        return str(target) if self.allow_outside else None

    def image(
        self, written: str, bases: Sequence[str], split: str | None, described: str, where: tuple[str, int | None]
    ) -> str | None:
        """The image that a path in the annotations means; None, with a fault, if it is not there or cannot be told.

        Annotations come from other machines, so that, in this order, these are tried below each of `bases`: the path,
        and its ends, the longest first; then the only image of its base name in the whole folder, but for folders that
        are named after another split than `split`. `%20` is a space where there is no such file otherwise. Where the
        path leads through a link that must not be followed, no other image stands in for it.

        Args:
            described: where it is written, for the message that it is missing.
            where: the same as a file and a place in it.
        """
        written = written.strip()
        if "://" in written:
            written = written.partition("://")[2].partition("?")[0]
        names = tuple(dict.fromkeys((written, unquote(written))))
        expected = [path for base in bases if (path := self.resolve(written, base)) is not None]
        found = self._of_path(names, bases)
        barred = [fault for path in (found or expected) if (fault := self.barred(path)) is not None]
        if not found and not barred:
            found = self._of_base_name(names, split)
        if barred:
            self.faults += barred
        elif len(found) > 1:
            self.add("ambiguous-image", where[0], f"{written} may be {' or '.join(found[:3])}", where[1])
        elif found:
            return found[0]
        elif not expected:
            self.add("outside-folder", where[0], written, where[1])
        else:
            capitals = next((name for path in expected if (name := self.similar(path))), None)
            similar = capitals or self._by_stem.get(without_extension(base_name(written)))
            hint = f"; there is {similar}" if similar else ""
            self.add("missing-image", expected[0], f"{described}{hint}")
        return None

    def _of_path(self, names: Sequence[str], bases: Sequence[str]) -> list[str]:
        """The file of one of these paths, or of an end of it; at most one."""
        for name in names:
            for end in (name, *tails(name)):
                for base in bases:
                    path = self.resolve(end, base)
                    if path is not None and (file := self.find(path)) is not None:
                        return [file]
        return []

    def _of_base_name(self, names: Sequence[str], split: str | None) -> list[str]:
        """The images of the folder that have the base name of one of these paths, and do not lie in another split."""
        for name in names:
            found = self._by_name.get(composed(base_name(name)), [])
            own = [file for file in found if split is None or split_of(posixpath.dirname(file)) in (None, split)]
            if own:
                return own
        return []

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """All images of the folder, by their base names."""
        return grouped(self.probe().images_in("."), lambda file: composed(posixpath.basename(file)))

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        """The first of them of each base name without extension."""
        return {without_extension(name): found[0] for name, found in reversed(self._by_name.items())}

    def barred(self, path: str) -> Fault | None:
        """Why a file or folder must not be read: it, or a folder above it, is a link that leads out or a folder that
        cannot be listed."""
        if len(path) > _LONGEST_PATH:
            return None
        for place in (".", *accumulate(PurePosixPath(path).parts, posixpath.join)):
            if place not in self._barred:
                self._barred[place] = self._leads_out(place)
            if (fault := self._barred[place]) is not None:
                return fault
        return None

    def _leads_out(self, path: str) -> Fault | None:
        if self.allow_outside or path == "." or not self._is_link(path):
            return None
        target = os.path.realpath(self.root / path)
        is_inside = Path(target).is_relative_to(self._real)
        return None if is_inside else Fault("outside-folder", path, f"is a link to {target}")

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder, or a link to one."""
        return stat.S_ISDIR(mode(self.root / path))

    def is_file(self, path: str) -> bool:
        """Whether it is a regular file, or a link to one."""
        return stat.S_ISREG(mode(self.root / path))

    def _is_link(self, path: str) -> bool:
        return stat.S_ISLNK(mode(self.root / path, follow=False))

    def names(self, folder: str = ".") -> list[str]:
        """The names of everything in a folder, sorted; none if it is no folder, or must not be read."""
        return sorted(name for alike in self._listed(folder).values() for name in alike)

    def subfolders(self, base: str = ".") -> list[str]:
        """The folders in `base`, sorted by name, without hidden ones; none if `base` is no folder."""
        paths = [_joined(base, name) for name in self.names(base) if not name.startswith(".")]
        return [path for path in paths if self.is_folder(path)]

    def images_in(self, folder: str, below: bool = True) -> list[str]:
        """The images in `folder`, and `below` it, as `files_in` lists files: what an image is, its content says."""
        return self._files_in(folder, lambda path: is_image(self.root / path), below)

    def files_in(self, folder: str, extensions: Iterable[str], below: bool = True) -> list[str]:
        """The files in `folder`, and `below` it, with one of the (lower-case) extensions, sorted.

        Hidden files (macOS leaves `._name.jpg`) and hidden folders are left out. Links are followed, but not up to
        folders that hold `folder`; a folder to which several lead is listed once. What must not be read is a fault.
        """
        endings = tuple(extensions)
        return self._files_in(folder, lambda path: path.lower().endswith(endings), below)

    def _files_in(self, folder: str, wanted: Callable[[str], bool], below: bool) -> list[str]:
        found: list[str] = []
        seen = set(Path(os.path.realpath(self.root / folder)).parents)
        waiting = deque([folder])
        while waiting:
            here = waiting.popleft()
            names, place = self.names(here), Path(os.path.realpath(self.root / here))
            if (fault := self.barred(here)) is not None:
                self.faults.append(fault)
            if fault is not None or place in seen:
                continue
            seen.add(place)
            for path in [_joined(here, name) for name in names if not name.startswith(".")]:
                if self.is_folder(path):
                    # Folders before links to them, so that a path without a link is preferred.
                    wait = waiting.append if self._is_link(path) else waiting.appendleft
                    if below:
                        wait(path)
                elif wanted(path):
                    if (fault := self.barred(path)) is not None:
                        self.faults.append(fault)
                    else:
                        found.append(path)
        return sorted(found)

    def find(self, name: str) -> str | None:
        """The file's path as it is on disk; None if there is no such file, or none that may be read.

        Names are compared in Unicode's composed form if none is the same in every byte.
        """
        folder, base = posixpath.split(name)
        alike = self._listed(folder).get(_folded(base), [])
        same = [base] if base in alike else [other for other in alike if composed(other) == composed(base)]
        return posixpath.join(folder, same[0]) if len(same) == 1 else None

    def similar(self, name: str) -> str | None:
        """A file whose name differs from `name` in capital letters alone."""
        folder, base = posixpath.split(name)
        return next((posixpath.join(folder, other) for other in self._listed(folder).get(_folded(base), [])), None)

    def parse(self, file: str, most: int, parser: Callable[[bytes], Parsed], image: str = "") -> Parsed | None:
        """What `parser` makes of a file of at most `most` bytes; None, with a fault, if it must not or cannot be read.

        Parsers raise whatever they trip over in a damaged file, so that anything they raise is a fault of the file.
        """
        if (fault := self.barred(file)) is not None:
            self.faults.append(fault)
            return None
        try:
            content = read_regular(self.root / file, most)
        except OSError as problem:
            self.add("malformed-file", file, reason(problem), image=image)
            return None
        try:
            return parser(content)
        except Exception as problem:
            self.add("malformed-file", file, _what_it_is(content) or reason(problem), image=image)
            return None

    def lines(self, file: str, most: int, image: str = "") -> list[tuple[int, str]]:
        """The lines of a text file in UTF-8 that are not blank, with their numbers from 1; none, with a fault, if it
        cannot be read. `image` is that of which it is the label file."""
        text = self.parse(file, most, lambda content: content.decode("utf-8-sig"), image)
        lines = enumerate((text or "").splitlines(), start=1)
        return [(number, line.strip()) for number, line in lines if line.strip()]

    def _listed(self, folder: str) -> dict[str, list[str]]:
        """The names of everything in a folder that may be read, by their folded form."""
        folder = folder or "."
        if folder not in self._names:
            entries: list[str] = []
            try:
                if self.barred(folder) is None:
                    entries = sorted(entry.name for entry in os.scandir(self.root / folder))
            except (OSError, ValueError) as problem:
                if self.is_folder(folder):
                    self._barred[folder] = Fault("unreadable-folder", folder, reason(problem))
            names = self._names[folder] = {}
            for name in entries:
                names.setdefault(_folded(name), []).append(name)
        return self._names[folder]


def _what_it_is(content: bytes) -> str:
    """What a file is that no parser understands, where its first bytes say so; else empty."""
    if content.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run git lfs pull"
    if content.startswith(b"PK\x03\x04"):
        return "it is a zip file: unpack it"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is text in UTF-16: save it as UTF-8"
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        return f"it is not text in UTF-8 (byte {problem.start:,} is {content[problem.start]:#04x}): save it as UTF-8"
    return "" if content.strip(b"\0 \r\n\t") else "it is empty"


def tails(written: str) -> list[str]:
    """The ends of a path, the longest first: what may remain of it in another working directory."""
    parts = [
        part for part in PurePosixPath(written[:_LONGEST_PATH].replace("\\", "/")).parts if part not in ("..", "/")
    ]
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - _MOST_ENDS), len(parts))]


def base_name(written: str) -> str:
    """The last part of a path, with either slash."""
    return PurePosixPath(written.replace("\\", "/")).name


def composed(name: str) -> str:
    """The name in Unicode's composed form: disks differ in which form they keep."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return composed(name).casefold()


def _joined(folder: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(folder, name))
