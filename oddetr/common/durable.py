"""Crash-safe writing: files and folders are written aside, synced to the disk and renamed into place.

Whenever the process is killed or the machine loses power, either the old content or the new one is there, whole.
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


class WriteError(OSError):
    """Something could not be written; the message says what, where, why, and what to do."""


def new_path(path: Path) -> Path:
    """Where the next content of `path` is written first."""
    return path.with_name(path.name + ".new")


def checksum(file: Path) -> str:
    """SHA-256 of a file in hexadecimal, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk; skip a folder that cannot be synced."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def open_new(file: Path) -> BufferedWriter:
    """Open a new file for writing; a file or link of that name is removed first, so no link is followed."""
    file.unlink(missing_ok=True)
    return file.open("xb")


@contextmanager
def replacing(file: Path, synced: bool = True) -> Generator[BufferedWriter]:
    """Open a stream whose content replaces `file` when the context ends without an error.

    Args:
        synced: wait for the disk. Otherwise a crash of the machine (not of the process) may leave half a file.
    """
    aside = new_path(file)
    try:
        with open_new(aside) as stream:
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
    """Replace a small text file; see `replacing`."""
    with replacing(file, synced) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def sync_files(folder: Path) -> None:
    """Sync a folder and all files in it."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def replace_folder(folder: Path, keep: bool) -> None:
    """Replace `folder` by `new_path(folder)`, a folder of files.

    At every moment `folder` is whole or, between the two renames, `FOLDER.old` and `new_path(folder)` are.

    Args:
        keep: leave the previous content in `FOLDER.old` until the next call.
    """
    new, old = new_path(folder), folder.with_name(f"{folder.name}.old")
    sync_files(new)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    if not keep:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Turn system errors while writing below `folder` into a `WriteError`: the disk is full, the folder is gone, ...

    Raises:
        WriteError: says why, and what to do.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or isinstance(error, WriteError):
            raise
        raise WriteError(f"{folder} cannot be written: {os.strerror(number)}. {_advice(number, folder)}") from error


def _error_number(error: BaseException | None) -> int | None:
    """Find the system's error number: torch hides it behind an error of its own, safetensors writes it in the text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if rust := re.search(r"\(os error (\d+)\)", str(error)):
            return int(rust[1])
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
    return "Check the disk for errors."
