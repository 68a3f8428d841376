"""Checkpoints by the Hub's conventions: a folder with a model card that anyone may have, on the disk or on the Hub."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from oddetr.checkpoints.card import LIBRARY, model_card
from oddetr.checkpoints.checkpoint import (
    FILES,
    CheckpointInfo,
    checked,
    files_of,
    load_checkpoint,
    move_files,
    written_aside,
)
from oddetr.checkpoints.hub import PREFIX, fetch, on_hub, split_name, upload
from oddetr.common.nested import without_key
from oddetr.models.detector import Detector
from oddetr.models.transformers.config import MODEL_PATH
from oddetr.structures import Weights

CARD = "README.md"
Self = TypeVar("Self", bound="Pretrained")
_PATHS = ("data", "out", "init", "backbone_weights")


class Pretrained(ABC):
    """The three methods that the Hub's users know, for a `Predictor`.

    huggingface_hub's ModelHubMixin has them too, but writes a config.json of its own, sets attributes on the instance
    (`Predictor` is frozen), and reads config.json before a class can say what it wants.
    """

    detector: Detector
    info: CheckpointInfo
    weights: Weights
    checkpoint: Path | None

    @classmethod
    @abstractmethod
    def load(cls: type[Self], checkpoint: Path | str, weights: Weights = "teacher") -> Self:
        """From a folder."""

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: Path | str,
        *,
        weights: Weights = "teacher",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """Reads a folder, as `load` does, or where there is none of that name, a repository on the Hub.

        Of a repository only safetensors and JSON are fetched and read.

        Args:
            pretrained_model_name_or_path: the folder, or user/name on the Hub.
            weights: the teacher's or the student's.
            revision: a branch, a tag or a commit; default: main.
            token: default: the one that `hf auth login` stored.
            cache_dir: default: the Hub's own (`HF_HOME`).
            force_download: fetch what is in the cache, too.
            local_files_only: look into the cache alone.

        Raises:
            CheckpointError: it is no checkpoint, or does not hold these weights; HubError: it cannot be had.
        """
        path = Path(pretrained_model_name_or_path)
        if path.exists():
            return cls.load(path, weights)
        repository, marked = split_name(pretrained_model_name_or_path)
        path = fetch(
            repository,
            files_of(weights),
            revision=revision or marked,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        return cls.load(checked(path, repository), weights)

    def save_pretrained(
        self,
        save_directory: Path | str,
        *,
        student: bool = False,
        repo_id: str | None = None,
        license: str | None = None,
    ) -> None:
        """Writes the checkpoint and its model card (README.md) into a folder that every verb reads.

        Args:
            save_directory: the folder; what else is in it stays.
            student: the student's weights too, from the folder that this was read from. (Of a repository only those
                weights are fetched that were asked for: `hf download` it whole, and read that folder.)
            repo_id: the name that the card calls it by; default: the folder's.
            license: of the weights, for example apache-2.0; default: the card names none.

        Raises:
            ValueError: the folder holds a checkpoint or a README.md of another origin, or there are no such weights.
        """
        detectors: dict[Weights, Detector] = {self.weights: self.detector}
        wanted: tuple[Weights, ...] = ("teacher", "student") if student else ("teacher",)
        for whose in wanted:
            if whose not in detectors:
                if self.checkpoint is None:
                    raise ValueError(f"The {whose}'s weights are not at hand: this was not read from a checkpoint.")
                detectors[whose], _ = load_checkpoint(self.checkpoint, whose)
        save(Path(save_directory), detectors, self.info, repo_id, license)

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
        """Uploads what `save_pretrained` writes in one commit, and returns its address.

        Args:
            repo_id: user/name; made if there is none.
            student: the student's weights too.
            license: of the weights, for example apache-2.0; default: the card names none.
            private: whether a repository that is made is private; default: as the user's or organization's are.
            token: default: the one that `hf auth login` stored.
            branch: default: main.
            create_pr: as a pull request.

        Raises:
            HubError: it cannot be written; ValueError: see `save_pretrained`.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, student=student, repo_id=repo_id, license=license)
            return upload(
                Path(folder),
                repo_id,
                (*FILES, CARD),
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
            )


def save(
    folder: Path,
    detectors: Mapping[Weights, Detector],
    info: CheckpointInfo,
    repo_id: str | None = None,
    license: str | None = None,
) -> None:
    """Writes a checkpoint and its model card into `folder`, beside whatever else is there.

    Of paths in the run's configuration only the last part is kept: who may have the detector need not know where its
    data lie.

    Args:
        detectors: at least the teacher.
        repo_id: the name that the card calls it by; default: the folder's.
        license: of the weights, for example apache-2.0; default: the card names none.

    Raises:
        ValueError: `folder` holds a checkpoint or a README.md that was not written by this.
    """
    _check_free(folder)
    info = without_paths(info)
    card = model_card(info, repo_id or folder.resolve().name, tuple(detectors), license)
    with written_aside(folder, detectors, info) as aside:
        card.save(aside / CARD)
        move_files(aside, folder, (*FILES, CARD))


def without_paths(info: CheckpointInfo) -> CheckpointInfo:
    """The same where each path of this machine is only its last part."""
    configuration = without_key(info.configuration, MODEL_PATH)
    for name in _PATHS:
        value = configuration.get(name)
        if value and not on_hub(value):
            configuration[name] = _last_part(value)
    model = str(configuration.get("model") or "")
    if on_hub(model) and (_absolute(model.removeprefix(PREFIX)) or Path(model.removeprefix(PREFIX)).exists()):
        configuration["model"] = PREFIX + _last_part(model.removeprefix(PREFIX))
    if "trainer" in configuration:
        configuration["trainer"] = _shortened(configuration["trainer"])
    return replace(info, detector=info.detector.without_paths(), configuration=configuration)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(each) for each in value]
    return _last_part(value) if isinstance(value, str | Path) and _absolute(str(value)) else value


def _absolute(path: str) -> bool:
    return path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _last_part(path: Path | str) -> str:
    """`cells` of /data/cells, C:\\data\\cells or ../cells/."""
    text = str(path)
    parts = PureWindowsPath(text) if PureWindowsPath(text).is_absolute() else PurePosixPath(text)
    return parts.name if parts.name not in ("", "..") else Path(text).resolve().name


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder to save to.")
    card = folder / CARD
    if card.is_file() and f"library_name: {LIBRARY}" in card.read_text(encoding="utf-8", errors="replace"):
        return
    foreign = [name for name in (*FILES, CARD) if (folder / name).exists()]
    if foreign:
        raise ValueError(
            f"{folder} holds {', '.join(foreign)}, not written by save_pretrained. Give another or an empty folder."
        )
