"""Download named files of a repository on the Hugging Face Hub, and upload a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oddetr.common.hub_names import check_revision


class HubError(OSError):
    """A repository is not available or cannot be written; the message says what was tried and what to do."""


def fetch(repo_id: str, files: Sequence[str], *, revision: str | None = None, **options: Any) -> Path:
    """Download files of a repository, as far as it has them, and return their folder in the cache.

    Args:
        repo_id: user/name.
        files: paths in the repository; no others are downloaded.
        revision: a branch, a tag or a commit; default: main.
        options: of `huggingface_hub.snapshot_download`: token, cache_dir, force_download, local_files_only.

    Raises:
        HubError: there is no such repository or revision, it may not be read, or it cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        check_revision(revision)
    except ValueError as error:
        raise HubError(str(error)) from error
    what = repo_id if revision is None else f"{repo_id} at {revision!r}"
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(files), **options))
    except (OSError, ValueError) as error:
        raise HubError(
            f"There is no folder {repo_id}, and {what} is not available on the Hub ({constants.ENDPOINT}) or in its "
            f"cache ({options.get('cache_dir') or constants.HF_HUB_CACHE}): {type(error).__name__}. A name is "
            "user/name; a private or gated repository needs `hf auth login` or a token; without a network, copy a "
            "folder that save_pretrained wrote, and give its path."
        ) from error


def upload(
    folder: Path, repo_id: str, files: Sequence[str], *, private: bool | None, token: str | bool | None, **options: Any
) -> str:
    """Upload files of a folder in one commit, create the repository if needed, and return the commit's address.

    Those of `files` that the folder lacks are deleted from the repository: they belong to an earlier upload.

    Args:
        private: whether a new repository is private.
        token: default: the one that `hf auth login` stored.
        options: of `huggingface_hub.HfApi.upload_folder`: commit_message, revision, create_pr.

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
            allow_patterns=list(files),
            delete_patterns=[name for name in files if not (folder / name).exists()],
            **options,
        )
    except Exception as error:
        raise HubError(
            f"{repo_id} on the Hub ({constants.ENDPOINT}) could not be written ({type(error).__name__}: {error}). The "
            "name is user/name; a token that may write comes from `hf auth login`, or is given."
        ) from error
    return str(commit)
