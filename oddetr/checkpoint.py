"""Our checkpoints: a folder with weights (safetensors) and a JSON that says what they are.

RUN/best, RUN/last
  model.safetensors   the detector's weights
  checkpoint.json     detector, classes, image size, normalisation, scores, configuration, versions
  resume.ckpt         (last only) the training's state
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from oddetr import __version__
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import Detector
from oddetr.models.presets import DetectorConfig, build_detector

WEIGHTS, DESCRIPTION, RESUME = "model.safetensors", "checkpoint.json", "resume.ckpt"
FORMAT = 1


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
        metrics: validation scores, in 0-1.
        configuration: the run's, to reproduce it.
        versions: of the packages it was trained with.
    """

    detector: DetectorConfig
    classes: ClassTable
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    configuration: dict[str, Any] = field(default_factory=dict[str, Any])
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
        content["detector"] = DetectorConfig(**content["detector"])
        content["classes"] = ClassTable(**{key: tuple(value) for key, value in content["classes"].items()})
        content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`."""
        return {"format": FORMAT, **asdict(self)}


def save_checkpoint(folder: Path, detector: Detector, info: CheckpointInfo, resume: Path | None = None) -> None:
    """Writes a checkpoint aside and puts it in the place of `folder`, so that `folder` is always a whole one.

    Args:
        resume: a file with the training's state, which is moved into the checkpoint.
    """
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    state = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    save_file(state, aside / WEIGHTS)
    (aside / DESCRIPTION).write_text(json.dumps(info.to_json(), indent=1))
    if resume:
        resume.rename(aside / RESUME)
    before = folder.with_name(folder.name + ".old")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint's folder that `path` means: a run's folder (its best, else last), a checkpoint or a file in it.

    Raises:
        CheckpointError: there is none.
    """
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *(folder / name for name in ("best", "best.old", "last", "last.old"))):
        if (candidate / DESCRIPTION).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    if not path.exists():
        raise CheckpointError(f"There is no {path}. A checkpoint is a run's folder, or the folder best or last in it.")
    raise CheckpointError(
        f"There is no checkpoint in {folder}: it has neither {DESCRIPTION} with {WEIGHTS}, nor best or last with "
        "them. Give the folder that `oddetr train --out` wrote, after its first epoch."
    )


def load_checkpoint(path: Path) -> tuple[Detector, CheckpointInfo]:
    """The detector, in evaluation mode on the CPU, and what is known of it.

    Raises:
        CheckpointError: there is no checkpoint at `path` (see `find_checkpoint`), or it cannot be read.
    """
    folder = find_checkpoint(path)
    try:
        info = CheckpointInfo.from_json(json.loads((folder / DESCRIPTION).read_text()))
        detector = build_detector(info.detector, len(info.classes))
        detector.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be read ({type(error).__name__}: {error}).") from error
    return detector.eval(), info
