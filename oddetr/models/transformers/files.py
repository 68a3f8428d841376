"""Find the files of a transformers detector: in a folder, or in a repository on the Hub and its cache."""

from pathlib import Path
from typing import Any

from oddetr.common.hub_names import check_revision, split_name
from oddetr.common.untrusted import read_json

_FOREIGN = (
    ("checkpoint.json", "It is a checkpoint of this package: give it to --init, and leave --model out."),
    ("adapter_config.json", "It is an adapter (PEFT), without the model: merge them, and save the whole."),
    ("model_index.json", "It is a pipeline of diffusers, which detects nothing."),
)
"""Files by which a repository without config.json shows what it is."""
_UNKNOWN = (
    "It is probably of another library (YOLO, timm, ONNX), or a data set; a detector that save_pretrained of "
    "transformers wrote has config.json and model.safetensors."
)


def find_file(name: str, file: str) -> Path | None:
    """Return a file of a folder, or of user/name[@revision] on the Hub; None where that has no such file.

    A file of the Hub is downloaded unless it is in the cache; at a commit, the cache alone is enough.

    Raises:
        OSError: there is no such repository or revision, or it cannot be reached and the file is not in the cache.
        ValueError: the revision is none.
    """
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).exists() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError

    repository, revision = split_name(name)
    check_revision(revision)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError as error:
        from huggingface_hub import constants

        known = try_to_load_from_cache(repository, file, revision=revision)
        if known is not None and not isinstance(known, str):  # the Hub once said that there is no such file
            return None
        raise OSError(
            f"its {file} is not in the cache ({constants.HF_HUB_CACHE}), and the Hub ({constants.ENDPOINT}) cannot be "
            f"reached. With a network, `hf download {repository}{f' --revision {revision}' if revision else ''}` gets "
            "it; without one, copy a folder with config.json and model.safetensors, and give its path."
        ) from error
    except HfHubHTTPError as error:
        raise OSError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def find_config(name: str) -> Path:
    """Return config.json of a folder or of a repository.

    Raises:
        OSError: there is none; says what it is instead, as far as its files show.
    """
    try:
        described = find_file(name, "config.json")
    except OSError as error:
        raise OSError(f"The model {name} of transformers cannot be had: {str(error).rstrip('.')}.") from error
    if described is None:
        place = "folder" if Path(name).is_dir() else "repository"
        raise FileNotFoundError(
            f"There is no model {name} of transformers: there is no config.json in the {place}. {_instead(name)}"
        )
    return described


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError for anything else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no JSON object")
    return content


def configuration_only(name: str) -> bool:
    """Whether `name` is a folder with a config.json and no weights: a detector to start from random weights."""
    folder = Path(name)
    return (folder / "config.json").is_file() and not any(
        file.suffix in (".safetensors", ".bin") for file in folder.iterdir()
    )


def _instead(name: str) -> str:
    """What a folder or a repository without config.json probably is, and what to do."""
    return next((words for file, words in _FOREIGN if find_file(name, file) is not None), _UNKNOWN)
