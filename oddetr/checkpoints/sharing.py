"""Share checkpoints by the conventions of the Hugging Face Hub: save, load and upload them with a model card."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from oddetr.checkpoints.card import LIBRARY, model_card
from oddetr.checkpoints.checkpoint import FILES, CheckpointInfo, fetch_checkpoint, load_checkpoint, save_checkpoint
from oddetr.checkpoints.hub import upload
from oddetr.common.hub_names import PREFIX, on_hub
from oddetr.common.nested import without_key
from oddetr.models.detector import Detector
from oddetr.models.transformers.config import MODEL_PATH
from oddetr.structures import Weights

CARD = "README.md"
Self = TypeVar("Self", bound="Pretrained")
_PATHS = ("data", "out", "init", "backbone_weights")


class Pretrained(ABC):
    """The Hub's three usual methods, for a `Predictor`.

    huggingface_hub's ModelHubMixin does not fit: it writes its own config.json, reads it before the class is asked, and
    sets attributes on the instance, but `Predictor` is frozen.
    """

    detector: Detector
    info: CheckpointInfo
    weights: Weights
    checkpoint: Path | None

    @classmethod
    @abstractmethod
    def load(cls: type[Self], checkpoint: Path | str, weights: Weights = "teacher") -> Self:
        """Load from a folder."""

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: Path | str,
        *,
        weights: Weights = "teacher",
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load from a folder or, if there is none of that name, from a repository on the Hub.

        Only safetensors and JSON files of a repository are fetched and read.

        Args:
            pretrained_model_name_or_path: the folder, or user/name on the Hub.
            weights: the teacher's or the student's.
            revision: a branch, a tag or a commit; default: main.
            options: of `huggingface_hub.snapshot_download`: `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            CheckpointError: it is no checkpoint, or lacks these weights; HubError: it is not available.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.exists():
            path = fetch_checkpoint(pretrained_model_name_or_path, weights, revision, **options)
        return cls.load(path, weights)

    def save_pretrained(
        self,
        save_directory: Path | str,
        *,
        student: bool = False,
        repo_id: str | None = None,
        license: str | None = None,
    ) -> None:
        """Write the checkpoint and its model card (README.md) into a folder that every verb reads.

        Only the last part of each path in the run's configuration is kept.

        Args:
            save_directory: the folder; other files in it stay.
            student: save the student's weights too, from the folder that this was loaded from. (From a repository only
                the requested weights are fetched: `hf download` all of it first, and load that folder.)
            repo_id: the name in the card; default: the folder's.
            license: of the weights, for example apache-2.0; default: the card names none.

        Raises:
            ValueError: the folder holds a checkpoint or a README.md of another origin, or there are no such weights.
        """
        detectors: dict[Weights, Detector] = {self.weights: self.detector}
        wanted: tuple[Weights, ...] = ("teacher", "student") if student else ("teacher",)
        for weights in wanted:
            if weights not in detectors:
                if self.checkpoint is None:
                    raise ValueError(f"This predictor has no {weights}'s weights: it was not read from a checkpoint.")
                detectors[weights], _ = load_checkpoint(self.checkpoint, weights)
        folder = Path(save_directory)
        _check_free(folder)
        info = without_paths(self.info)
        name = repo_id or folder.resolve().name
        card = model_card(info, name, tuple(detectors), license, self.detector.top_k)
        save_checkpoint(folder, detectors, info, {CARD: str(card)})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        student: bool = False,
        license: str | None = None,
        commit_message: str = "Upload a detector by oddetr",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes in one commit, and return its address.

        Args:
            repo_id: user/name; created if there is none.
            student: upload the student's weights too.
            license: of the weights, for example apache-2.0; default: the card names none.
            private: whether a new repository is private; default: the user's or organization's setting.
            token: default: the one that `hf auth login` stored.
            branch: default: main.
            create_pr: open a pull request.

        Raises:
            HubError: it cannot be written; ValueError: see `save_pretrained`.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, student=student, repo_id=repo_id, license=license)
            return upload(
                Path(folder),
                repo_id,
                (*FILES, CARD),
                private=private,
                token=token,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )


def without_paths(info: CheckpointInfo) -> CheckpointInfo:
    """Shorten each path on this machine to its last part."""
    configuration = without_key(info.configuration, MODEL_PATH)
    for name in _PATHS:
        value = configuration.get(name)
        if value and not on_hub(value):
            configuration[name] = _last_part(value)
    model = str(configuration.get("model") or "")
    source = model.removeprefix(PREFIX)
    if on_hub(model) and (_absolute(source) or Path(source).exists()):
        configuration["model"] = PREFIX + _last_part(source)
    if "trainer" in configuration:
        configuration["trainer"] = _shortened(configuration["trainer"])
    return replace(info, detector=info.detector.without_paths(), configuration=configuration)


def _shortened(value: Any) -> Any:
    """Reduce absolute paths, however deep, to their last part."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(each) for each in value]
    return _last_part(value) if isinstance(value, str | Path) and _absolute(str(value)) else value


def _absolute(path: str) -> bool:
    return path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _last_part(path: Path | str) -> str:
    """`cells` for /data/cells, C:\\data\\cells or ../cells/."""
    text = str(path)
    parts = PureWindowsPath(text) if PureWindowsPath(text).is_absolute() else PurePosixPath(text)
    return parts.name if parts.name not in ("", "..") else Path(text).resolve().name


def _check_free(folder: Path) -> None:
    """Raises ValueError if saving to the folder would replace files of another origin."""
    card = folder / CARD
    if card.is_file() and f"library_name: {LIBRARY}" in card.read_text(encoding="utf-8", errors="replace"):
        return
    foreign = [name for name in (*FILES, CARD) if (folder / name).exists()]
    if foreign or folder.is_file():
        raise ValueError(
            f"{folder} holds {', '.join(foreign) or 'a file'}, not written by save_pretrained. Give another or an "
            "empty folder."
        )
