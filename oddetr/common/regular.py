"""Reading files of which nothing is known: never a pipe, a socket or a device, never more than a limit."""

import errno
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def mode(path: Path, follow: bool = True) -> int:
    """What there is at a path, as `stat` tells it; 0 where there is nothing, or nothing that can be asked for.

    Args:
        path: the path; its name may be too long, or hold what no name can.
        follow: whether to tell of what a link leads to.
    """
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return 0


class NotRead(OSError):
    """A file that is not even opened; `strerror` says why, without its name."""

    def __str__(self) -> str:
        return f"{self.filename} is not read: {self.strerror}" if self.filename else super().__str__()


class TooLarge(NotRead):
    """A file that is larger than what is read of its kind."""


def require_regular(path: Path, most: int | None = None) -> None:
    """Looks at a file before it is opened, for opening a pipe waits for whoever writes to it.

    Args:
        path: the file.
        most: bytes that it may have; default: any number.

    Raises:
        TooLarge: it has more.
        NotRead: it is no regular file.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRead(errno.EINVAL, f"it is {kind}, not a file", str(path))
    if most is not None and status.st_size > most:
        told = f"it has {status.st_size:,} bytes; of such files at most {most:,} are read"
        raise TooLarge(errno.EFBIG, told, str(path))


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        OSError: as `require_regular`, or it cannot be read.
    """
    require_regular(path, most)
    return path.read_bytes()


def reason(problem: BaseException) -> str:
    """What went wrong, in a few words for a user."""
    if isinstance(problem, FileNotFoundError):
        return "the file is missing"
    if isinstance(problem, MemoryError):
        return "it does not fit into memory"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    words = (isinstance(problem, OSError) and problem.strerror) or " ".join(str(problem).split()).rstrip(".")
    return words[:300] if any(map(str.isalpha, words)) else "it is damaged"
