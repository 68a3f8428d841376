"""Experiment loggers beside a run's own records, and what happens when one fails."""

import importlib
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyExperiment

from oddetr.checkpoints.checkpoint import DESCRIPTION
from oddetr.common.durable import write_file, writing
from oddetr.common.untrusted import read_json
from oddetr.training.config import LoggerName
from oddetr.training.processes import is_first_process
from oddetr.training.records.logger_kinds import KINDS, BegunLogger, LoggedRun

IDS = "loggers.json"
"""In the run's folder: under which id each logger knows the run."""


class LoggerError(RuntimeError):
    """A logger's package is missing, or the logger cannot begin."""


class GuardedLogger(Logger):
    """A logger whose failure is told once and ends it, not the training.

    Args:
        kind: which.
        begun: the logger.
        run: what it logs.
        say: prints for a person.
    """

    def __init__(self, kind: LoggerName, begun: BegunLogger, run: LoggedRun, say: Callable[[str], None]) -> None:
        super().__init__()
        self.kind, self.begun, self.run, self.say = kind, begun, run, say
        self.failed = False
        self._step = run.steps_done

    @property
    def name(self) -> str:
        """Which it is."""
        return self.kind

    @property
    def version(self) -> str:
        """Under which id it knows the run."""
        return self.begun.identity

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.run.folder)

    @property
    def experiment(self) -> Any:
        """What the package itself logs with; something that does nothing once it has failed."""
        return DummyExperiment() if self.failed else getattr(self.begun.logger, "experiment", None)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers after `step` optimizer steps."""
        self._step = self._step if step is None else step
        self._attempt(lambda: self.begun.logger.log_metrics({**metrics}, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Logs further parameters than the run's configuration, which is logged already."""
        self._attempt(lambda: self.begun.logger.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """Writes what is kept in memory."""
        self._attempt(lambda: self.begun.logger.save())

    def finalize(self, status: str) -> None:
        """Tells of the best checkpoint, if there is one, and ends with the `status` success or failed."""
        best = self.run.folder / "best" / DESCRIPTION
        if best.is_file():
            self._attempt(lambda: self.begun.tell_best(best, read_json(best), self._step))
        self._attempt(lambda: self.begun.end(status))

    def _attempt(self, what: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            what()
        except Exception as error:
            self.failed = True
            self.say(
                f"The logger {self.kind} has failed and gets nothing more of this run ({_told(error)}). The training "
                f"goes on, and so does {self.run.folder / 'metrics.jsonl'}."
            )


def check_packages(names: Sequence[LoggerName]) -> None:
    """Imports the loggers' packages.

    Raises:
        LoggerError: one is missing.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LoggerError(f"The logger {name} needs the package {name}: pip install {name}.") from error


def open_loggers(names: Sequence[LoggerName], run: LoggedRun, say: Callable[[str], None]) -> list[Logger]:
    """Begins the loggers, or goes on where those of the resumed run stopped; none but in the first process.

    Raises:
        LoggerError: one cannot begin. When a run is resumed, that is told, and the run goes on without it.
        WriteError: their ids cannot be written.
    """
    if not names or not is_first_process():
        return []
    known = _known(run.folder / IDS, say) if run.steps_done else {}
    opened: list[GuardedLogger] = []
    try:
        for name in names:
            try:
                logger = GuardedLogger(name, KINDS[name](run, known.get(name)), run, say)
            except Exception as error:
                if not run.steps_done:
                    raise LoggerError(
                        f"The logger {name} cannot begin ({_told(error)}). Leave it out of --loggers; see "
                        "docs/loggers.md."
                    ) from error
                say(f"The logger {name} cannot go on and gets nothing of this part of the run ({_told(error)}).")
                continue
            opened.append(logger)
            say(f"logging to {name}: {logger.begun.where}")
        with writing(run.folder):
            ids = known | {logger.kind: logger.version for logger in opened}
            write_file(run.folder / IDS, json.dumps(ids, indent=1))
    except Exception:
        for each in opened:
            each.finalize("failed")
        raise
    return [*opened]


def _known(file: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Under which id each logger knows the run; none where the file is damaged, which is told."""
    try:
        ids = read_json(file)
        if not isinstance(ids, dict) or not all(isinstance(identity, str) for identity in ids.values()):
            raise ValueError("it does not map loggers to ids")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        say(f"{file} cannot be read ({error}). The loggers begin the run anew.")
        return {}
    return ids


def _told(error: Exception) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
