"""Names of repositories on the Hugging Face Hub."""

from pathlib import Path

PREFIX = "hf:"
"""Marks a name on the Hub, or a folder of transformers: hf:user/name, hf:user/name@revision or hf:PATH."""


def on_hub(path: Path | str) -> bool:
    """Whether a path is marked as a name on the Hub."""
    return str(path).startswith(PREFIX)


def split_name(path: Path | str) -> tuple[str, str | None]:
    """Split a name on the Hub, with or without `hf:`, into repository and revision (None: not given)."""
    text = path.as_posix() if isinstance(path, Path) else path
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    return repository, revision or None


def check_revision(revision: str | None) -> None:
    """Raises ValueError for a revision that, as part of a path, leads to another folder."""
    if revision is not None and ".." in revision.replace("\\", "/").split("/"):
        raise ValueError(f"{revision!r} is no revision: a branch, a tag or a commit leads to no other folder.")
