"""oddetr's checkpoints: folders with weights (safetensors) and a JSON file that describes them.

RUN/best, RUN/last
  model.safetensors     the teacher's weights, used by default
  student.safetensors   the student's weights
  checkpoint.json       detector, classes, image size, normalisation, scores, configuration, versions
  resume.ckpt           (last only) the state of the training

checkpoint.json holds a checksum of each file and of itself, verified on reading. `last.old` is the previous `last`.
"""

import hashlib
import json
import reprlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_model, save_model

from oddetr import __version__
from oddetr.checkpoints.hub import fetch
from oddetr.common.durable import checksum, new_path, replace_folder, sync, sync_files
from oddetr.common.hub_names import on_hub, split_name
from oddetr.common.untrusted import is_number, read_count, read_json, read_normalisation
from oddetr.data.dataset import ClassTable
from oddetr.data.transforms import LEAST_SIDE, MOST_SIDE
from oddetr.evaluation.scores_json import read_scores
from oddetr.models.detector import Detector
from oddetr.models.detector_spec import DetectorSpec
from oddetr.models.families.build import build_detector, read_config
from oddetr.structures import Weights

DESCRIPTION, RESUME = "checkpoint.json", "resume.ckpt"
FORMAT = 2
"""Format 1 had no checksums."""

WEIGHT_FILES: dict[Weights, str] = {"teacher": "model.safetensors", "student": "student.safetensors"}
FILES = (DESCRIPTION, "config.json", *WEIGHT_FILES.values())
"""Everything that a detector is read from. (Detectors of transformers have a config.json.)"""

_RUN_FOLDERS = ("best", "best.old", "last", "last.old")
"""The checkpoints in a run's folder, in order of preference."""


class CheckpointError(ValueError):
    """There is no checkpoint, or it cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The content of `checkpoint.json`.

    Attributes:
        detector: the detector's configuration.
        classes: the class table: labels, names, original ids.
        image_size: shorter side, in pixels, to which images are resized.
        mean, std: normalisation of RGB in [0, 1].
        epoch: epochs trained.
        metrics: validation scores, in 0-1, under `teacher` and `student`; empty if the epoch was not validated.
        configuration: the run's configuration.
        images: number of images by split; empty if unknown.
        thresholds: the teacher's score threshold of best F1 by class, in [0, 1]; empty if unknown.
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
    thresholds: dict[str, float] = field(default_factory=dict[str, float])
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "oddetr": __version__,
            **{name: version(name) for name in ("torch", "torchvision", "timm")},
        }
    )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CheckpointInfo":
        """Read what `to_json` returned, and check all values that are used.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a value is missing or wrong.
        """
        if content["format"] not in range(1, FORMAT + 1):
            raise ValueError("the file's format is newer than this oddetr; upgrade it")
        size, metrics, run = content["image_size"], content.get("metrics", {}), content.get("configuration", {})
        if type(size) is not int or not LEAST_SIDE <= size <= MOST_SIDE:
            raise ValueError(f"image_size is {reprlib.repr(size)}; it must lie in {LEAST_SIDE}-{MOST_SIDE:,}.")
        _check_configuration(run)
        classes = ClassTable(**{key: tuple(value) for key, value in content["classes"].items()})
        return cls(
            read_config(content["detector"]).for_classes(classes.names),
            classes,
            size,
            *read_normalisation(content),
            epoch=read_count(content.get("epoch", 0)),
            metrics={model: read_scores(metrics[model]) for model in WEIGHT_FILES if model in metrics},
            configuration=run,
            images={name: read_count(count) for name, count in content.get("images", {}).items()},
            thresholds=_read_thresholds(content.get("thresholds", {}), classes),
            versions=dict(content.get("versions", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values for `json.dump`."""
        return {"format": FORMAT, **asdict(self)}


def _read_thresholds(values: dict[str, Any], classes: ClassTable) -> dict[str, float]:
    """Raises ValueError unless there is a number in [0, 1] for each class, or none at all."""
    if values and ({*values} != {*classes.names} or not all(is_number(v) and 0 <= v <= 1 for v in values.values())):
        raise ValueError("thresholds must be a number in 0-1 for each class.")
    return {name: float(value) for name, value in values.items()}


_CONFIGURATION_TYPES: dict[str, Any] = {
    **dict.fromkeys(("data", "model", "out", "init", "backbone_weights"), str | None),
    **dict.fromkeys(("batch_size", "accumulate"), int | None),
    **dict.fromkeys(("optimizer", "loss", "digits", "distillation", "trainer"), dict),
}
"""Types of those values of a run's configuration that are read from checkpoints."""


def _check_configuration(run: dict[str, Any]) -> None:
    """Raises ValueError if a value of `_CONFIGURATION_TYPES` has another type, or is below 1."""
    for name in _CONFIGURATION_TYPES.keys() & run.keys():
        value = run[name]
        wrong = not isinstance(value, _CONFIGURATION_TYPES[name]) or isinstance(value, bool)
        if wrong or (isinstance(value, int) and value < 1):
            raise ValueError(f"configuration.{name} is {reprlib.repr(value)}, which no run has there.")


def save_checkpoint(
    folder: Path,
    detectors: Mapping[Weights, Detector],
    info: CheckpointInfo,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint into `folder`, replacing the one there; other files in the folder stay.

    It is written aside and synced first. The checksums reveal a replacement that was interrupted.

    Args:
        detectors: at least the teacher.
        texts: further files to write, by name.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written; the old checkpoint stays.
    """
    texts = texts or {}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".oddetr") as temporary:
        aside = Path(temporary) / "checkpoint"
        _write(aside, detectors, info)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        sync_files(aside)
        for name in (*FILES, RESUME, *texts):
            if (aside / name).exists():
                (aside / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        sync(folder)


def save_of_run(
    folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo, resume: Path | None = None
) -> None:
    """Replace a run's `best` or `last` by a new checkpoint.

    At every moment `folder` or `FOLDER.old` is a whole checkpoint. `FOLDER.new` and `FOLDER.old` belong to the run and
    are replaced.

    Args:
        detectors: at least the teacher.
        resume: a file with the state of the training, to be moved into the checkpoint. The previous checkpoint then
            stays as `FOLDER.old`.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written; what was written of it is removed.
    """
    shutil.rmtree(new_path(folder), ignore_errors=True)
    _write(new_path(folder), detectors, info, resume)
    replace_folder(folder, keep=resume is not None)


def _write(
    folder: Path, detectors: Mapping[Weights, Detector], info: CheckpointInfo, resume: Path | None = None
) -> None:
    """Write a checkpoint into a new folder, which is removed after an error."""
    folder.mkdir(parents=True)
    try:
        for weights, detector in detectors.items():
            save_model(detector.saved, str(folder / WEIGHT_FILES[weights]), metadata={"format": "pt"})
            detector.describe(folder)
        if resume:
            resume.rename(folder / RESUME)
        files = sorted(folder.iterdir())
        (folder / DESCRIPTION).touch()
        for file in files:
            file.chmod((folder / DESCRIPTION).stat().st_mode)  # safetensors' files are readable by their owner only
        checksums = {file.name: checksum(file) for file in files}
        content = json.loads(json.dumps(info.to_json() | {"checksums": checksums}))
        (folder / DESCRIPTION).write_text(json.dumps(content | {"checksum": _own_checksum(content)}, indent=1))
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _own_checksum(content: dict[str, Any]) -> str:
    """Checksum of the rest of checkpoint.json."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    """Read checkpoint.json and verify its own checksum.

    Raises:
        CheckpointError: it is missing, unreadable or damaged.
    """
    try:
        content = dict(read_json(folder / DESCRIPTION))
        own = content.pop("checksum", None)
        if own != _own_checksum(content) and (own or content.get("format") != 1):
            raise ValueError("it is not what was written")
        return content | {"checksums": dict(content.get("checksums", {}))}
    except FileNotFoundError:
        raise CheckpointError(f"{DESCRIPTION} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{DESCRIPTION} cannot be read: {error.strerror}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{DESCRIPTION} is damaged: {error}") from error


def damage(folder: Path, files: Iterable[str] = (*FILES, RESUME)) -> str | None:
    """Describe the first file of a checkpoint that is missing, unreadable or changed; None if all are whole.

    Checkpoints of format 1 have no checksums: only missing weights are detected.
    """
    try:
        checksums = _read_description(folder)["checksums"]
    except CheckpointError as error:
        return str(error)
    for name in files:
        try:
            if name not in (*checksums, WEIGHT_FILES["teacher"]):
                continue
            if not (folder / name).is_file():
                return f"{name} is missing"
            if name in checksums and checksum(folder / name) != checksums[name]:
                return f"{name} is damaged: its content is not what was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _damage_error(folder: Path, problem: str) -> CheckpointError:
    """The error that names the problem, and a whole checkpoint of the same run to use instead."""
    beside = [folder.with_name(name) for name in _RUN_FOLDERS if folder.name in _RUN_FOLDERS and name != folder.name]
    whole = next((other for other in beside if other.is_dir() and not damage(other)), None)
    instead = f"Use {whole}, which is whole." if whole else "Copy it again from its source, or train again."
    return CheckpointError(f"The checkpoint {folder} cannot be read: {problem}. {instead}")


def find_checkpoint(path: Path, weights: Weights = "teacher") -> Path:
    """Find the checkpoint's folder for a path.

    Args:
        path: a run's folder (its best, else last), a checkpoint or a file in it, or `hf:user/name[@revision]` on the
            Hub, from which only the files for `weights` are fetched.

    Raises:
        CheckpointError: there is none; HubError: the repository is not available.
    """
    if on_hub(path):
        return fetch_checkpoint(path, weights)
    if path.suffix.lower() == ".onnx" and not path.is_dir():
        raise CheckpointError(f"{path} is an exported file, which `oddetr predict` takes. Give the checkpoint here.")
    folder = path if path.is_dir() else path.parent
    if (folder / DESCRIPTION).is_file():
        return folder
    for name in _RUN_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    if not path.exists():
        raise CheckpointError(f"There is no {path}. A checkpoint is a run's folder, or the folder best or last in it.")
    raise CheckpointError(
        f"There is no checkpoint in {folder}: it has neither {DESCRIPTION} with {WEIGHT_FILES['teacher']}, nor best or "
        "last with them. Give the folder that `oddetr train --out` wrote, "
        "after its first save (at Ctrl-C, after five minutes, or after an epoch)."
    )


def fetch_checkpoint(name: Path | str, weights: Weights, revision: str | None = None, **options: Any) -> Path:
    """Fetch the files that a detector with these weights needs from the Hub, and return their folder.

    Args:
        name: user/name[@revision], with or without `hf:`.
        options: see `fetch`.

    Raises:
        CheckpointError: the repository is no checkpoint; HubError: it is not available.
    """
    repository, marked = split_name(name)
    other = {file for model, file in WEIGHT_FILES.items() if model not in ("teacher", weights)}
    files = [file for file in FILES if file not in other]
    folder = fetch(repository, files, revision=revision or marked, **options)
    missing = [name for name in (DESCRIPTION, WEIGHT_FILES["teacher"]) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"The repository {repository} on the Hub has no {' and no '.join(missing)}: it was not written by "
            "save_pretrained. (To train a detector of transformers, use --model hf:NAME.)"
        )
    return folder


def read_info(folder: Path) -> CheckpointInfo:
    """Read the description of the checkpoint in `folder`.

    Raises:
        CheckpointError: it is damaged, or has wrong values; says what to use instead.
    """
    try:
        return CheckpointInfo.from_json(_read_description(folder))
    except CheckpointError as error:
        raise _damage_error(folder, str(error)) from error
    except Exception as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be read ({type(error).__name__}: {error}).") from error


def load_checkpoint(path: Path, weights: Weights = "teacher") -> tuple[Detector, CheckpointInfo]:
    """Load a detector, in evaluation mode on the CPU, and its description.

    Args:
        path: see `find_checkpoint`.
        weights: the teacher's or the student's.

    Raises:
        CheckpointError: there is no checkpoint at `path`, it cannot be read, or it does not hold these weights.
        HubError: the repository is not available.
        ValueError: there are no weights of that name.
    """
    if weights not in WEIGHT_FILES:
        raise ValueError(f"weights is {weights!r}; it must be {' or '.join(WEIGHT_FILES)}.")
    folder, file = find_checkpoint(path, weights), WEIGHT_FILES[weights]
    if path.name != file and path.name in WEIGHT_FILES.values():
        raise CheckpointError(
            f"{path} does not hold the {weights}'s weights, {file} does. Give the folder, and choose by --weights "
            f"{' or '.join(WEIGHT_FILES)}."
        )
    info = read_info(folder)
    if weights != "teacher" and not (folder / file).is_file():
        raise CheckpointError(
            f"The checkpoint {folder} does not hold the {weights}'s weights: there is no {file} in it, only "
            f"{WEIGHT_FILES['teacher']}, the teacher's. Use those (--weights teacher), or another checkpoint."
        )
    if problem := damage(folder, [file]):
        raise _damage_error(folder, problem)
    try:
        detector = build_detector(info.detector, len(info.classes))
        load_model(detector.saved, folder / file)
    except Exception as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be read ({type(error).__name__}: {error}).") from error
    return detector.eval(), info
