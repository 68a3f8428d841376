"""Download named files of a repository on the Hugging Face Hub, and upload a folder."""

from collections.abc import Sequence
from pathlib import Path

PREFIX = "hf:"
"""Marks a name on the Hub where a path is expected: hf:user/name or hf:user/name@revision."""


class HubError(OSError):
    """A repository is not available or cannot be written; the message says what was tried and what to do."""


def on_hub(path: Path | str) -> bool:
    """Whether a path is marked as a name on the Hub."""
    return str(path).startswith(PREFIX)


def split_name(path: Path | str) -> tuple[str, str | None]:
    """Split a name on the Hub, with or without `hf:`, into repository and revision (None: not given)."""
    text = path.as_posix() if isinstance(path, Path) else path
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    return repository, revision or None


def fetch(
    repo_id: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Download files of a repository, as far as it has them, and return their folder in the cache.

    Args:
        repo_id: user/name.
        files: paths in the repository; no others are downloaded.
        revision: a branch, a tag or a commit; default: main.
        token: default: the one that `hf auth login` stored.
        cache_dir: default: the Hub's own (HF_HOME).
        force_download: download files again that are in the cache.
        local_files_only: use only the cache.

    Raises:
        HubError: there is no such repository or revision, it may not be read, or it cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if revision is not None and ".." in revision.replace("\\", "/").split("/"):
        raise HubError(f"{revision!r} is no revision: a branch, a tag or a commit leads to no other folder.")
    what = repo_id if revision is None else f"{repo_id} at {revision!r}"
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            allow_patterns=list(files),
        )
    except HFValidationError as error:
        raise HubError(f"There is no folder {repo_id}, and it is no name on the Hub: those are user/name.") from error
    except RevisionNotFoundError as error:
        raise HubError(f"The repository {repo_id} on the Hub has no revision {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"There is no folder {repo_id} here, and no repository {repo_id} on the Hub that you may read. If it is "
            "private or gated, log in (hf auth login) or give a token."
        ) from error
    except OSError as error:
        raise HubError(
            f"There is no folder {repo_id} here, and {what} could not be had from the Hub ({constants.ENDPOINT}) nor "
            f"from its cache ({cache_dir or constants.HF_HUB_CACHE}): {type(error).__name__}. Check the network; "
            "without one, copy a folder that save_pretrained wrote, and give its path."
        ) from error
    return Path(folder)


def upload(
    folder: Path,
    repo_id: str,
    files: Sequence[str],
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload files of a folder in one commit, create the repository if needed, and return the commit's address.

    Those of `files` that the folder lacks are deleted from the repository: they belong to an earlier upload.

    Raises:
        HubError: the name is invalid, you may not write there, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=list(files),
            delete_patterns=[name for name in files if not (folder / name).exists()],
        )
    except Exception as error:
        raise HubError(
            f"{repo_id} on the Hub ({constants.ENDPOINT}) could not be written ({type(error).__name__}: {error}). The "
            "name is user/name; a token that may write comes from `hf auth login`, or is given."
        ) from error
    return str(commit)
