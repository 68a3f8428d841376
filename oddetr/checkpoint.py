"""Our checkpoints: a folder with weights (safetensors) and a JSON that says what they are.

RUN/best, RUN/last
  model.safetensors     the teacher's weights: what is meant where nothing is said
  student.safetensors   the student's
  checkpoint.json       detector, classes, image size, normalisation, scores, configuration, versions
  resume.ckpt           (last only) the training's state

`oddetr.pretrained` writes such a folder with a model card, to share; `hf:user/name` means one on the Hub.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_model, save_model

from oddetr import __version__
from oddetr.data.dataset import ClassTable
from oddetr.data.transforms import LEAST_SIDE
from oddetr.hub import fetch, on_hub, split_name
from oddetr.models.detector import Detector
from oddetr.models.huggingface import HuggingFaceConfig
from oddetr.models.presets import DetectorConfig, build_detector
from oddetr.untrusted import read_json

DESCRIPTION, RESUME = "checkpoint.json", "resume.ckpt"
FORMAT = 1
MOST_SIDE = 16_384
"""Pixels of `image_size`: an image of twice as many takes a GiB before anything is computed."""

Weights = Literal["teacher", "student"]
"""Whose weights: the teacher's, the average of the student's over its last steps, which usually score higher and change
less; or the student's, as the optimizer left them."""
WEIGHT_FILES: dict[Weights, str] = {"teacher": "model.safetensors", "student": "student.safetensors"}
FILES = (DESCRIPTION, "config.json", *WEIGHT_FILES.values())
"""What is needed to detect, and all that is read: safetensors and JSON. (config.json is of transformers' detectors.)"""


class CheckpointError(ValueError):
    """There is no checkpoint, or it cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What `checkpoint.json` says.

    Attributes:
        detector: what the detector is made of.
        classes: labels inside, names and ids outside.
        image_size: shorter side, in pixels, that images are resized to.
        mean, std: normalisation of RGB in [0, 1].
        epoch: epochs trained.
        metrics: validation scores, in 0-1, under `teacher` and `student`; empty where the epoch was not validated.
        configuration: the run's, to reproduce it.
        images: how many the run trained on and validated with, by split; empty where that is not known.
        versions: of the packages it was trained with.
    """

    detector: DetectorConfig | HuggingFaceConfig
    classes: ClassTable
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    configuration: dict[str, Any] = field(default_factory=dict[str, Any])
    images: dict[str, int] = field(default_factory=dict[str, int])
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "oddetr": __version__,
            **{name: version(name) for name in ("torch", "torchvision", "timm")},
        }
    )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CheckpointInfo":
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if content.pop("format") != FORMAT:
            raise ValueError("the file's format is newer than this oddetr; upgrade it")
        made_of: dict[str, Any] = content["detector"]
        of_transformers = "content" in made_of
        content["detector"] = HuggingFaceConfig.from_plain(made_of) if of_transformers else DetectorConfig(**made_of)
        content["classes"] = ClassTable(**{key: tuple(value) for key, value in content["classes"].items()})
        if not LEAST_SIDE <= content["image_size"] <= MOST_SIDE:
            raise ValueError(f"image_size is {content['image_size']}; it must lie in {LEAST_SIDE}-{MOST_SIDE}")
        content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`."""
        return {"format": FORMAT, **asdict(self)}


def save_checkpoint(
    folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo, resume: Path | None = None
) -> None:
    """Writes a checkpoint aside and puts it in the place of `folder`, so that `folder` is always a whole one.

    Args:
        detectors: at least the teacher.
        resume: a file with the training's state, which is moved into the checkpoint.
    """
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for whose, detector in detectors.items():
        save_model(detector.saved, str(aside / WEIGHT_FILES[whose]), metadata={"format": "pt"})
        detector.describe(aside)
    (aside / DESCRIPTION).write_text(json.dumps(info.to_json(), indent=1))
    if resume:
        resume.rename(aside / RESUME)
    before = folder.with_name(folder.name + ".old")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def files_of(weights: Weights) -> list[str]:
    """The files of a repository on the Hub that a detector with these weights needs."""
    other = {file for whose, file in WEIGHT_FILES.items() if whose not in ("teacher", weights)}
    return [file for file in FILES if file not in other]


def find_checkpoint(path: Path, weights: Weights = "teacher") -> Path:
    """The checkpoint's folder that `path` means: a run's folder (its best, else last), a checkpoint or a file in it, or
    `hf:user/name[@revision]` on the Hub, from which only what `weights` need is fetched.

    Raises:
        CheckpointError: there is none; HubError: the repository cannot be had.
    """
    if on_hub(path):
        repository, revision = split_name(path)
        return checked(fetch(repository, files_of(weights), revision=revision), repository)
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *(folder / name for name in ("best", "best.old", "last", "last.old"))):
        if (candidate / DESCRIPTION).is_file() and (candidate / WEIGHT_FILES["teacher"]).is_file():
            return candidate
    if not path.exists():
        raise CheckpointError(f"There is no {path}. A checkpoint is a run's folder, or the folder best or last in it.")
    raise CheckpointError(
        f"There is no checkpoint in {folder}: it has neither {DESCRIPTION} with {WEIGHT_FILES['teacher']}, nor best or "
        "last with them. Give the folder that `oddetr train --out` wrote, after its first epoch."
    )


def checked(folder: Path, repository: str) -> Path:
    """The same folder, of files of a repository on the Hub.

    Raises:
        CheckpointError: it is no checkpoint.
    """
    missing = [name for name in (DESCRIPTION, WEIGHT_FILES["teacher"]) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"The repository {repository} on the Hub has no {' and no '.join(missing)}: it was not written by "
            "save_pretrained. (A training with a detector of transformers begins by --model hf:NAME.)"
        )
    return folder


def read_info(folder: Path) -> CheckpointInfo:
    """What is known of the checkpoint in `folder`.

    Raises:
        CheckpointError: its description cannot be read.
    """
    try:
        return CheckpointInfo.from_json(read_json(folder / DESCRIPTION))
    except Exception as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be read ({type(error).__name__}: {error}).") from error


def load_checkpoint(path: Path, weights: Weights = "teacher") -> tuple[Detector, CheckpointInfo]:
    """The detector, in evaluation mode on the CPU, and what is known of it.

    Args:
        path: see `find_checkpoint`.
        weights: whose; see `Weights`.

    Raises:
        CheckpointError: there is no checkpoint at `path`, it cannot be read, or it does not hold these weights.
        HubError: the repository that `path` names cannot be had.
        ValueError: there are no weights of that name.
    """
    if weights not in WEIGHT_FILES:
        raise ValueError(f"weights is {weights!r}; it must be {' or '.join(WEIGHT_FILES)}.")
    folder, file = find_checkpoint(path, weights), WEIGHT_FILES[weights]
    if path.name != file and path.name in WEIGHT_FILES.values():
        raise CheckpointError(
            f"{path} does not hold the {weights}'s weights, {file} does. Give the folder, and say by --weights whose "
            f"are meant: {' or '.join(WEIGHT_FILES)}."
        )
    if not (folder / file).is_file():
        raise CheckpointError(
            f"The checkpoint {folder} does not hold the {weights}'s weights: there is no {file} in it, only "
            f"{WEIGHT_FILES['teacher']}, the teacher's. Use those (--weights teacher), or another checkpoint."
        )
    info = read_info(folder)
    try:
        _check_size(info, folder / file)
        detector = build_detector(info.detector, len(info.classes))
        load_model(detector.saved, folder / file)
    except Exception as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be read ({type(error).__name__}: {error}).") from error
    return detector.eval(), info


def _check_size(info: CheckpointInfo, file: Path) -> None:
    """A description alone could ask for more memory than the machine has.

    Raises:
        ValueError: the weights' file is too small for the detector that is described, in half precision even.
    """
    size = file.stat().st_size
    if isinstance(info.detector, DetectorConfig) and 2 * info.detector.least_parameters > size:
        raise ValueError(
            f"it describes a detector of {info.detector.least_parameters:,} parameters or more, and {file.name} has "
            f"{size:,} bytes"
        )
