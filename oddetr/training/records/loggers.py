"""Experiment loggers beside a run's own records. One that fails is dropped; the training goes on."""

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
from oddetr.training.records.logged import best_values
from oddetr.training.records.logger_kinds import KINDS, LoggedRun, OpenLogger

IDS = "loggers.json"
"""The file in the run's folder with the id under which each logger knows the run."""


class LoggerError(RuntimeError):
    """A logger's package is missing, or the logger cannot begin."""


class GuardedLogger(Logger):
    """A logger whose first failure is reported and drops it, and not the training.

    Args:
        kind: its name.
        opened: the logger.
        run: what it logs.
        say: prints for the user.
    """

    def __init__(self, kind: LoggerName, opened: OpenLogger, run: LoggedRun, say: Callable[[str], None]) -> None:
        super().__init__()
        self.kind, self.opened, self.run, self.say = kind, opened, run, say
        self.failed = False
        self._step = run.steps_done

    @property
    def name(self) -> str:
        """The logger's name."""
        return self.kind

    @property
    def version(self) -> str:
        """The id under which the logger knows the run."""
        return self.opened.identity

    @property
    def experiment(self) -> Any:
        """The package's own object, for callbacks; after a failure one that does nothing."""
        return DummyExperiment() if self.failed else getattr(self.opened.logger, "experiment", None)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers after `step` optimizer steps."""
        self._step = self._step if step is None else step
        self._attempt(lambda: self.opened.logger.log_metrics({**metrics}, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log parameters besides the run's configuration, which is logged already."""
        self._attempt(lambda: self.opened.logger.log_hyperparams(params, *args, **kwargs))

    def finalize(self, status: str) -> None:
        """Log the best checkpoint, if there is one, and close the logger with `status` success or failed."""
        best = self.run.folder / "best" / DESCRIPTION
        if best.is_file():
            self._attempt(lambda: self.opened.log_best(best, best_values(read_json(best)), self._step))
        self._attempt(lambda: self.opened.close(status))

    def _attempt(self, what: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            what()
        except Exception as error:
            self.failed = True
            self.say(
                f"The logger {self.kind} has failed and gets nothing more of this run ({_in_one_line(error)}). The "
                f"training goes on, and so does {self.run.folder / 'metrics.jsonl'}."
            )


def check_packages(names: Sequence[LoggerName]) -> None:
    """Import the loggers' packages.

    Raises:
        LoggerError: one is missing.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LoggerError(f"The logger {name} needs the package {name}: pip install {name}.") from error


def open_loggers(names: Sequence[LoggerName], run: LoggedRun, say: Callable[[str], None]) -> list[Logger]:
    """Open the loggers, with the ids of the run that is resumed; only the first process has any.

    Raises:
        LoggerError: one cannot begin. A resumed run goes on without it, and says so.
        WriteError: the ids cannot be written.
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
                        f"The logger {name} cannot begin ({_in_one_line(error)}). Leave it out of --loggers; see "
                        "docs/loggers.md."
                    ) from error
                say(f"The logger {name} cannot go on and gets nothing of this part of the run ({_in_one_line(error)}).")
                continue
            opened.append(logger)
            say(f"logging to {name}: {logger.opened.where}")
        with writing(run.folder):
            ids = known | {logger.kind: logger.version for logger in opened}
            write_file(run.folder / IDS, json.dumps(ids, indent=1))
    except Exception:
        for each in opened:
            each.finalize("failed")
        raise
    return [*opened]


def _known(file: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Read the ids of the loggers; none, with a message, if the file is damaged."""
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


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
