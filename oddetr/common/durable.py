"""What survives a crash: files and folders that are written aside, synced to the disk, and put in place by a rename.

A process that is killed, or a machine that loses its power, at any moment leaves the old content or the new one, whole.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

_SYNCS_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP)
_OF_RUST = re.compile(r"\(os error (\d+)\)")


class WriteError(OSError):
    """Something could not be written; the message says what, where, why, and what to do."""


def new(path: Path) -> Path:
    """Where what shall stand at `path` is written first."""
    return path.with_name(path.name + ".new")


def old(path: Path) -> Path:
    """Where what stood at `path` before is kept."""
    return path.with_name(path.name + ".old")


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk, where its file system can do so."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in _SYNCS_NO_FOLDERS:
            raise
    finally:
        os.close(handle)


def fresh(file: Path) -> BufferedWriter:
    """Opens a file that is new; what stood there before is removed, and a link is not followed."""
    file.unlink(missing_ok=True)
    return file.open("xb")


@contextmanager
def replacing(file: Path, synced: bool = True) -> Generator[BufferedWriter]:
    """What is written to the stream takes the place of `file`, or of a link there, when this context ends well.

    Args:
        synced: wait for the disk. Without that a crash of the machine, not of the process, may leave half a file.
    """
    aside = new(file)
    try:
        with fresh(aside) as stream:
            yield stream
        if synced:
            sync(aside)
        aside.replace(file)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    if synced:
        sync(file.parent)


def write_file(file: Path, text: str, synced: bool = True) -> None:
    """Writes a small file in the place of the old one; see `replacing`."""
    with replacing(file, synced) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def sync_files(folder: Path) -> None:
    """Waits until a folder of files is on the disk."""
    for file in folder.iterdir():
        sync(file)
    sync(folder)


def replace_folder(folder: Path, keep: bool) -> None:
    """Puts `new(folder)`, a folder of files, in the place of `folder`.

    At every moment `folder` is whole or, between two renames, `old(folder)` and `new(folder)` are.

    Args:
        keep: leave what stood there before as `old(folder)`, until the next time.
    """
    sync_files(new(folder))
    if folder.exists():
        shutil.rmtree(old(folder), ignore_errors=True)
        folder.rename(old(folder))
    new(folder).rename(folder)
    sync(folder.parent)
    if not keep:
        shutil.rmtree(old(folder), ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """What is written below `folder` in this context fails with one clear error.

    Raises:
        WriteError: the disk is full, the folder is gone or may not be written to, and their like.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number is None or isinstance(error, WriteError):
            raise
        raise WriteError(f"{folder} cannot be written: {os.strerror(number)}. {_advice(number, folder)}") from error


def _number(error: BaseException | None) -> int | None:
    """The system's number of what went wrong: torch hides it behind an error of its own, safetensors in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        told = _OF_RUST.search(str(error))
        if told:
            return int(told[1])
        error = error.__cause__ or error.__context__
    return None


def _advice(number: int, folder: Path) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MB are free there. " if folder.exists() else ""
        return f"{free}Make room on that disk."
    if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
        return "Give another folder, or allow this user to write there."
    if number == errno.ENOENT and not folder.exists():
        return "The folder is gone: it was removed, or its disk was taken away."
    return "Look after that disk."
