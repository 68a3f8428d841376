"""Read files that may be anything: only regular files (no pipe, socket or device), and only up to a size limit."""

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
    """The mode of a path as `stat` gives it; 0 if nothing is there or the name is no valid path.

    Args:
        follow: whether to follow a link.
    """
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return 0


class NotRead(OSError):
    """A file is not even opened; `strerror` says why, without its name."""

    def __str__(self) -> str:
        return f"{self.filename} is not read: {self.strerror}" if self.filename else super().__str__()


class TooLarge(NotRead):
    """A file is larger than the limit for its kind."""


def require_regular(path: Path, most: int | None = None) -> None:
    """Check a file before it is opened: opening a pipe waits until someone writes to it.

    Args:
        most: the largest allowed size in bytes; default: any.

    Raises:
        TooLarge: the file is larger.
        NotRead: it is no regular file.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRead(errno.EINVAL, f"it is {kind}, not a file", str(path))
    if most is not None and status.st_size > most:
        limit = f"it has {status.st_size:,} bytes; of such files at most {most:,} are read"
        raise TooLarge(errno.EFBIG, limit, str(path))


def read_regular(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: as `require_regular`, or it cannot be read.
    """
    require_regular(path, most)
    return path.read_bytes()


def reason(problem: BaseException) -> str:
    """Explain an error in a few words for a user."""
    if isinstance(problem, FileNotFoundError):
        return "the file is missing"
    if isinstance(problem, MemoryError):
        return "it does not fit into memory"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    words = (isinstance(problem, OSError) and problem.strerror) or " ".join(str(problem).split()).rstrip(".")
    return words[:300] if any(map(str.isalpha, words)) else "it is damaged"
