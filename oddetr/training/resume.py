"""Beginning a run in a folder, and going on with one that was stopped."""

import json
from pathlib import Path
from typing import Any

import torch

from oddetr.checkpoint import DESCRIPTION, RESUME, WEIGHT_FILES
from oddetr.data.dataset import ClassTable
from oddetr.nested import flat
from oddetr.training.config import TrainConfig
from oddetr.training.processes import is_first_process

CONFIGURATION, BEGINNING = "config.json", "beginning.json"
MAY_CHANGE = ("resume", "out", "data", "allow_outside", "workers", "trainer", "loggers")
"""Fields that a resumed run takes from the command rather than from the run."""
_SAYS_NOTHING = ("out", "resume", "allow_outside", "workers", "loggers", "tensorboard")
"""Fields of `TrainConfig` that do not say what is learned; the last is an older oddetr's."""
_SWITCH = "distillation.enabled"
_IDLE = tuple(f"distillation.{name}" for name in ("memory", "matching.", "prediction.", "auxiliary."))
"""What the switch makes idle; not the horizon, which is that of the EMA too."""


def resumed(config: TrainConfig, out: Path) -> tuple[TrainConfig, Path | None]:
    """What to run, and the state to go on from.

    With `config.resume`, the configuration of the run in `out`; where there is none yet, the given one and None.

    Raises:
        FileExistsError: there is a run in `out`, and `config.resume` is off.
        ValueError: arguments contradict the run that is to be resumed, or an older oddetr began it, without a teacher.
    """
    state = next((folder / RESUME for folder in (out / "last", out / "last.old") if (folder / RESUME).is_file()), None)
    if state is None:
        return config, None
    if not config.resume:
        raise FileExistsError(f"{out} holds a run already. Go on with it by --resume, or give another folder by --out.")
    if not (state.parent / WEIGHT_FILES["student"]).is_file():
        raise ValueError(f"The run {out} has no teacher: an older oddetr began it. Resume it with that, or begin anew.")
    recorded = json.loads((out / CONFIGURATION).read_text()) | {"resume": True}
    saved = TrainConfig.from_plain(recorded).to_json()  # With fields that are newer than the run.
    default = flat(TrainConfig().to_json())
    given = {
        name: value
        for name, value in flat(config.to_json()).items()
        if name.partition(".")[0] not in MAY_CHANGE and value != default.get(name)
    }
    changed = differences(saved, flat(saved) | given)
    if changed:
        raise ValueError(
            f"The run {out} was begun otherwise: {'; '.join(changed)}. Resume it without these arguments, or begin a "
            "new run."
        )
    wanted, usual = config.to_json(), TrainConfig().to_json()
    kept = {name: wanted[name] for name in MAY_CHANGE if wanted[name] != usual[name]}
    flags = {"trainer": saved["trainer"] | config.trainer}
    return TrainConfig.from_plain(saved | kept | flags), state


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, the fields in which two `TrainConfig.to_json`, nested or flat, differ that say what is learned; fields
    that `before` lacks had their defaults.

    What would be distilled does not matter where both switch distillation off.
    """
    default = flat(TrainConfig().to_json())
    old = default | flat(json.loads(json.dumps(before)))
    new = default | flat(json.loads(json.dumps(now)))
    off = not (old[_SWITCH] or new[_SWITCH])
    ignored = (*_SAYS_NOTHING, *(name for name in default if off and name.startswith(_IDLE)))
    names = (name for name in old | new if name not in ignored and name.partition(".")[0] not in ignored)
    missing = "not set"
    return [
        f"{name} was {old.get(name, missing)}, now it is {new.get(name, missing)}"
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    ]


def check_classes(out: Path, classes: ClassTable) -> None:
    """Compares the data's classes with those of the run in `out`, if there is one.

    Raises:
        ValueError: they differ.
    """
    file = out / "last" / DESCRIPTION
    if not file.exists():
        return
    known = json.loads(file.read_text())["classes"]
    if [*known["names"]] != [*classes.names]:
        raise ValueError(
            f"The run {out} was trained on the classes {', '.join(known['names'])}; this data has "
            f"{', '.join(classes.names)}. Resume it with its own data, or begin a new run."
        )


def save_configuration(config: TrainConfig, out: Path) -> None:
    """Makes the run's folder and writes what `resumed` reads."""
    out.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        (out / CONFIGURATION).write_text(json.dumps(config.to_json(), indent=1))


def save_beginning(out: Path, **said: Any) -> None:
    """Keeps what was said before the first step, for the report."""
    if is_first_process():
        (out / BEGINNING).write_text(json.dumps(said, indent=1))


def steps_done(state: Path | None) -> int:
    """Optimizer steps that the training of `state` has done; 0 without one."""
    if state is None:
        return 0
    return int(torch.load(state, map_location="cpu", weights_only=True, mmap=True)["global_step"])
