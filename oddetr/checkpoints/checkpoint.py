"""Our checkpoints: a folder with weights (safetensors) and a JSON that says what they are.

RUN/best, RUN/last
  model.safetensors     the teacher's weights: what is meant where nothing is said
  student.safetensors   the student's
  checkpoint.json       detector, classes, image size, normalisation, scores, configuration, versions
  resume.ckpt           (last only) the training's state

checkpoint.json holds a checksum of each file, and of itself, which are verified when they are read. `last.old` is the
`last` before: it stays until the next one is written.

`oddetr.checkpoints.pretrained` writes such a folder with a model card, to share; `hf:user/name` means one on the Hub.
"""

import hashlib
import json
import reprlib
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_model, save_model

from oddetr import __version__
from oddetr.checkpoints.hub import fetch, on_hub, split_name
from oddetr.common.durable import checksum, new, replace_folder, sync, sync_files
from oddetr.common.untrusted import read_count, read_json, read_normalisation
from oddetr.data.dataset import ClassTable
from oddetr.data.transforms import LEAST_SIDE, MOST_SIDE
from oddetr.evaluation.scores import read_scores
from oddetr.models.detector import Detector
from oddetr.models.families.presets import build_detector, count_values, read_config
from oddetr.models.interface import DetectorSpec
from oddetr.structures import Weights

DESCRIPTION, RESUME = "checkpoint.json", "resume.ckpt"
FORMAT = 2
"""1 had no checksums."""

WEIGHT_FILES: dict[Weights, str] = {"teacher": "model.safetensors", "student": "student.safetensors"}
FILES = (DESCRIPTION, "config.json", *WEIGHT_FILES.values())
"""What is needed to detect, and all that is read: safetensors and JSON. (config.json is of transformers' detectors.)"""


_OF_A_RUN = ("best", "best.old", "last", "last.old")
"""The checkpoints that a run's folder may hold, those that are meant first."""


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

    detector: DetectorSpec
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
        if content.pop("format") not in range(1, FORMAT + 1):
            raise ValueError("the file's format is newer than this oddetr; upgrade it")
        classes = ClassTable(**{key: tuple(value) for key, value in content["classes"].items()})
        content["classes"] = classes
        content["detector"] = read_config(content["detector"]).for_classes(classes.names)
        content["mean"], content["std"] = read_normalisation(content)
        metrics = dict(content.get("metrics", {}))  # of runs from before there was a teacher: without these names
        content["metrics"] = {whose: read_scores(metrics[whose]) for whose in WEIGHT_FILES if whose in metrics}
        _check_kinds(content)
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`."""
        return {"format": FORMAT, **asdict(self)}


def _check_kinds(content: dict[str, Any]) -> None:
    """Looks at what readers of checkpoints rely on besides detector, classes, normalisation and scores.

    Raises:
        ValueError: a value is of another kind, or out of range.
    """
    size, run = content["image_size"], content.get("configuration", {})
    if type(size) is not int or not LEAST_SIDE <= size <= MOST_SIDE:
        raise ValueError(f"image_size is {reprlib.repr(size)}; it must lie in {LEAST_SIDE}-{MOST_SIDE:,}.")
    read_count(content.get("epoch", 0))
    for name, kind in (("images", int), ("versions", str)):
        values = content.get(name, {})
        if not isinstance(values, dict) or any(type(value) is not kind for value in values.values()):
            raise ValueError(f"{name} is {reprlib.repr(values)}; it must map names to values of type {kind.__name__}.")
    if not isinstance(run, dict):
        raise ValueError(f"configuration is {reprlib.repr(run)}; it must be an object.")
    for name in run.keys() & _KINDS.keys():
        value = run[name]
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            raise ValueError(f"configuration.{name} is {reprlib.repr(value)}, which no run has there.")


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("data", "model", "out", "init", "backbone_weights"), str | None),
    **dict.fromkeys(("batch_size", "accumulate"), int | None),
    **dict.fromkeys(("optimizer", "loss", "digits", "distillation", "trainer"), dict),
}
"""Of a run's configuration, what is read from checkpoints."""


def save_checkpoint(folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo) -> None:
    """Writes a checkpoint into `folder`, in the place of one that is there, and leaves alone whatever else is.

    It is written aside and synced to the disk first. A checkpoint whose replacement is cut off is noticed as damaged.

    Args:
        detectors: at least the teacher.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written; what stood there before stays.
    """
    with written_aside(folder, detectors, info) as aside:
        move_files(aside, folder, (*FILES, RESUME))


@contextmanager
def written_aside(folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo) -> Generator[Path]:
    """A checkpoint in a folder within `folder`, which is gone when this context ends; see `save_checkpoint`."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".oddetr") as aside:
        written = Path(aside) / "checkpoint"
        _write(written, detectors, info)
        sync_files(written)
        yield written


def move_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Moves files into `folder`; of those that `source` has not, an older one is removed there."""
    for name in names:
        if (source / name).exists():
            (source / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    sync(folder)


def save_of_run(
    folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo, resume: Path | None = None
) -> None:
    """Writes a run's `best` or `last` aside, syncs it to the disk, and puts it in the place of `folder`.

    Whenever this is cut off, `folder` is a whole checkpoint, or `FOLDER.old` is. `FOLDER.new` and `FOLDER.old` are the
    run's, too, and are replaced.

    Args:
        detectors: at least the teacher.
        resume: a file with the training's state, which is moved into the checkpoint. What stood in `folder` then stays
            as `FOLDER.old`.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written; what had been written of it is removed.
    """
    shutil.rmtree(new(folder), ignore_errors=True)
    _write(new(folder), detectors, info, resume)
    replace_folder(folder, keep=resume is not None)


def _write(
    folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo, resume: Path | None = None
) -> None:
    """Writes a checkpoint into a folder that is not there yet."""
    folder.mkdir(parents=True)
    try:
        for whose, detector in detectors.items():
            save_model(detector.saved, str(folder / WEIGHT_FILES[whose]), metadata={"format": "pt"})
            detector.describe(folder)
        if resume:
            resume.rename(folder / RESUME)
        files = sorted(folder.iterdir())
        (folder / DESCRIPTION).touch()
        for file in files:
            file.chmod((folder / DESCRIPTION).stat().st_mode)  # safetensors writes for its user alone
        checksums = {file.name: checksum(file) for file in files}
        content = json.loads(json.dumps(info.to_json() | {"checksums": checksums}))
        (folder / DESCRIPTION).write_text(json.dumps(content | {"checksum": _own_checksum(content)}, indent=1))
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _own_checksum(content: dict[str, Any]) -> str:
    """Of what checkpoint.json holds besides; as JSON has it, with keys that are text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _described(folder: Path) -> dict[str, Any]:
    """What checkpoint.json holds, but for its own checksum.

    Raises:
        OSError, ValueError: it is not there, or not as it was written.
    """
    content = read_json(folder / DESCRIPTION)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    own = content.pop("checksum", None)
    if own != _own_checksum(content) and (own or content.get("format") != 1):
        raise ValueError("it is not what was written")
    checksums = content.get("checksums", {})
    if not isinstance(checksums, dict):
        raise ValueError("its checksums are no JSON object")
    foreign = [name for name in checksums if name not in (*FILES, RESUME)]
    if foreign:
        raise ValueError(f"its checksums name {reprlib.repr(foreign[0])}, which is no file of a checkpoint")
    return content


def damage(folder: Path, files: Iterable[str] = ()) -> str | None:
    """In words, which file of a checkpoint is not as it was written, or cannot be read; None where all are whole.

    Of a checkpoint of an older oddetr, which has no checksums, only missing files are noticed.

    Args:
        files: look at these; default: at all.
    """
    try:
        checksums = _described(folder).get("checksums", {})
    except FileNotFoundError:
        return f"{DESCRIPTION} is missing"
    except OSError as error:
        return f"{DESCRIPTION} cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return f"{DESCRIPTION} is damaged: {error}"
    for name in files or checksums or (WEIGHT_FILES["teacher"],):
        try:
            if not (folder / name).is_file():
                return f"{name} is missing"
            if name in checksums and checksum(folder / name) != checksums[name]:
                return f"{name} is damaged: its content is not what was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _damaged(folder: Path, how: str) -> CheckpointError:
    beside = [folder.with_name(name) for name in _OF_A_RUN if name != folder.name] if folder.name in _OF_A_RUN else []
    whole = [other for other in beside if other.is_dir() and not damage(other)]
    instead = f"Use {whole[0]}, which is whole." if whole else "Copy it again from its source, or train again."
    return CheckpointError(f"The checkpoint {folder} cannot be read: {how}. {instead}")


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
    if (folder / DESCRIPTION).is_file():
        return folder
    for name in _OF_A_RUN:
        if (folder / name).is_dir():
            return folder / name
    if not path.exists():
        raise CheckpointError(f"There is no {path}. A checkpoint is a run's folder, or the folder best or last in it.")
    raise CheckpointError(
        f"There is no checkpoint in {folder}: it has neither {DESCRIPTION} with {WEIGHT_FILES['teacher']}, nor best or "
        "last with them. Give the folder that `oddetr train --out` wrote, "
        "after its first save (at Ctrl-C, after five minutes, or after an epoch)."
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
        CheckpointError: its description is damaged, or cannot be understood; says what to use instead.
    """
    how = damage(folder, [DESCRIPTION])
    if how:
        raise _damaged(folder, how)
    try:
        content = _described(folder)
        content.pop("checksums", None)
        return CheckpointInfo.from_json(content)
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
    info = read_info(folder)
    if weights != "teacher" and not (folder / file).is_file():
        raise CheckpointError(
            f"The checkpoint {folder} does not hold the {weights}'s weights: there is no {file} in it, only "
            f"{WEIGHT_FILES['teacher']}, the teacher's. Use those (--weights teacher), or another checkpoint."
        )
    how = damage(folder, [file])
    if how:
        raise _damaged(folder, how)
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
    least = count_values(info.detector, len(info.classes))
    if 2 * least > size:
        raise ValueError(f"it describes a detector of {least:,} parameters or more, and {file.name} has {size:,} bytes")
