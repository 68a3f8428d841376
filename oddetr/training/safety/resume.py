"""Resume a run that was stopped, and record its configuration."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from oddetr.checkpoints.checkpoint import RESUME, WEIGHT_FILES, CheckpointError, damage, read_info
from oddetr.common.durable import sync, write_file, writing
from oddetr.common.nested import flat
from oddetr.common.untrusted import read_json, read_weights_only
from oddetr.data.dataset import Source
from oddetr.training.config import TrainConfig
from oddetr.training.old_configs import PADDED_BEFORE, upgraded
from oddetr.training.processes import is_first_process

CONFIGURATION, PLAN = "config.json", "plan.json"
_IGNORED = ("out", "resume", "allow_outside", "most_pixels", "workers", "loggers", "gradient_checkpointing")
"""Fields of `TrainConfig` that do not change what is learned."""
MAY_CHANGE = (*_IGNORED, "data", "trainer", "non_finite")
"""Fields that a resumed run takes from the command."""
_CHOSE_EPOCHS = "hours"
"""The field from which a run has chosen its epochs, which it records instead."""
_UNFINISHED = "last.new"
_CHECKPOINTS = ("last", _UNFINISHED, "last.old")
"""Folders that may hold a state, newest first: see `oddetr.common.durable.replace_folder`."""
_SWITCH = "distillation.enabled"
_IDLE = tuple(f"distillation.{name}" for name in ("memory", "queries", "matching.", "prediction.", "auxiliary."))
"""Fields without effect when distillation is off. The horizon is not one: it is the EMA's, too."""


def has_checkpoint(out: Path) -> bool:
    """Whether the run in `out` has saved anything, whole or damaged."""
    return any((out / name).exists() for name in _CHECKPOINTS if name != _UNFINISHED)


def find_state(out: Path, say: Callable[[str], None]) -> Path | None:
    """Return the state in the newest whole checkpoint of the run in `out`; None if it was killed before its first.

    That is `last`; if it is damaged or missing, `last.new` of an interrupted save, or `last.old`, and `say` reports it.

    Raises:
        CheckpointError: all are damaged; names the files, and what can be done.
    """
    damaged: list[str] = []
    for name in _CHECKPOINTS:
        folder = out / name
        problem = _problem(folder)
        if problem is None:
            if name != _CHECKPOINTS[0]:
                found = "; ".join(damaged) or f"There is no {out / _CHECKPOINTS[0]}"
                say(f"{found}. The run goes on from {folder}, the newest checkpoint that is whole.")
            return folder / RESUME
        if folder.exists() and name != _UNFINISHED:
            damaged.append(f"The checkpoint {folder} cannot be used: {problem}")
    if damaged:
        best = out / "best"
        advice = "" if damage(best) else f" with the weights of its best, which is whole: --init {best}"
        raise CheckpointError(f"{'; '.join(damaged)}. There is no other to go on from. Start a new run{advice}.")
    return None


def _problem(checkpoint: Path) -> str | None:
    """Why a run cannot be resumed from a checkpoint; None if it can."""
    problem, state = damage(checkpoint), checkpoint / RESUME
    if problem is None:
        try:
            steps_done(state)
        except Exception as error:
            problem = f"{state.name} is damaged: {error}"
    return problem


def restore(found: Path, last: Path) -> None:
    """Rename the checkpoint that a run is resumed from to `last`; a damaged `last` becomes `last.damaged`."""
    if found == last:
        return
    if last.exists():
        aside = last.with_name("last.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        last.rename(aside)
    found.rename(last)
    sync(last.parent)


def resumed(
    config: TrainConfig, out: Path, say: Callable[[str], None], given: frozenset[str] = frozenset()
) -> tuple[TrainConfig, Path | None]:
    """Return the configuration to run with, and the state to resume from.

    With `config.resume` that is the configuration of the run in `out`. If that run saved nothing, its configuration and
    None, unless arguments were given; if there is no run, `config` and None.

    Args:
        given: dotted names of fields that were given, if only with their default.

    Raises:
        FileExistsError: `out` holds a run, and `config.resume` is off.
        CheckpointError: all its checkpoints are damaged.
        ValueError: arguments contradict the run, or an older oddetr wrote it, without a teacher.
    """
    if not config.resume:
        if has_checkpoint(out) or _problem(out / _UNFINISHED) is None:
            raise FileExistsError(
                f"{out} holds a run already. Go on with it by --resume, or give another folder by --out."
            )
        return config, None
    state = find_state(out, say)
    if state is None:
        return _restarted(config, out, say, given), None
    if not (state.parent / WEIGHT_FILES["student"]).is_file():
        raise ValueError(f"The run {out} has no teacher: an older oddetr wrote it. Resume it with that, or start anew.")
    saved = _load(read_info(state.parent).configuration)
    fields = flat(saved.to_json())
    changed = differences(fields, fields | _given(config, given))
    if changed:
        raise ValueError(
            f"The run {out} has other settings: {'; '.join(changed)}. Resume it without these arguments, or start a "
            f"new run (--out NEW_FOLDER, with its weights by --init {out})."
        )
    return _with_command(config, saved), state


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name the fields that change what is learned and differ between two recorded configurations, with both values.

    Fields that one of them lacks have their defaults. Distillation's own fields do not count where both switch it off.

    Args:
        before, now: as `TrainConfig.to_json` writes them, or flat; `before` may be an older oddetr's.
    """
    default = flat(TrainConfig().to_json())
    old, new = default | PADDED_BEFORE | flat(upgraded(before)), default | flat(now)
    idle = () if old[_SWITCH] or new[_SWITCH] else _IDLE
    missing = "not set"
    return [
        f"{name} was {old.get(name, missing)}, now it is {new.get(name, missing)}"
        for name in old | new
        if name.partition(".")[0] not in _IGNORED
        and not name.startswith(idle)
        and old.get(name, missing) != new.get(name, missing)
    ]


def agreed(config: TrainConfig, sources: Mapping[str, Source], steps: int) -> dict[str, Any]:
    """Return what must be equal in all processes of a run, by name; paths may differ between machines."""
    own = (*MAY_CHANGE, "init", "backbone_weights")
    facts = {name: value for name, value in flat(config.to_json()).items() if name.partition(".")[0] not in own}
    facts |= {f"{split} images": len(source) for split, source in sources.items()}
    return facts | {"steps done": steps, "classes": sources["train"].classes.names}


def _restarted(config: TrainConfig, out: Path, say: Callable[[str], None], given: frozenset[str]) -> TrainConfig:
    """The configuration of a run that was killed before it saved anything; the command's, if that gives one."""
    file = out / CONFIGURATION
    if not file.is_file():
        say(f"starting: there is no run in {out} to resume")
    elif not _given(config, given):
        say(f"starting again: nothing of the run was saved before it ended. Configuration: {file}")
        return _with_command(config, _load(read_json(file)))
    return config


def _given(config: TrainConfig, given: frozenset[str]) -> dict[str, Any]:
    """The fields that a command sets of those that a resumed run must not change, with dotted names."""
    default = flat(TrainConfig().to_json())
    return {
        name: value
        for name, value in flat(config.to_json()).items()
        if name.partition(".")[0] not in (*MAY_CHANGE, _CHOSE_EPOCHS) and (name in given or value != default.get(name))
    }


def _load(recorded: dict[str, Any]) -> TrainConfig:
    """A run's own configuration; `resume` keeps it from reading its initial weights again."""
    return TrainConfig.from_plain({"grey_bits": 16} | recorded | {"resume": True})


def _with_command(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Return `saved` with the fields of `MAY_CHANGE` that the command (`config`) sets."""
    usual = TrainConfig()
    wanted = {name: getattr(config, name) for name in MAY_CHANGE if getattr(config, name) != getattr(usual, name)}
    return replace(saved, **wanted | {"trainer": saved.trainer | config.trainer})


def save_plan(out: Path, config: TrainConfig, messages: dict[str, list[str]] | None) -> None:
    """Make the run's folder; write its configuration, and of a new run what was printed before the first step."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if is_first_process():
            write_file(out / CONFIGURATION, json.dumps(config.to_json() | {"resume": False}, indent=1))
            if messages:
                write_file(out / PLAN, json.dumps(messages, indent=1))


def steps_done(state: Path | None) -> int:
    """Return the optimizer steps that `state` has done; 0 without one."""
    return int(read_weights_only(state, mmap=True)["global_step"]) if state else 0
