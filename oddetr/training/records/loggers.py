"""Run experiment loggers beside a run's own records. One that fails is dropped; the training continues."""

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
    """A logger's package is missing, or the logger cannot start."""


class GuardedLogger(Logger):
    """Drop a logger at its first failure, with a message, and let the training continue.

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
        """Log the scores of the best checkpoint, if any, and close the logger with `status` success or failed."""
        best = self.run.folder / "best" / DESCRIPTION
        if best.is_file():
            self._attempt(lambda: self.opened.log_best(best_values(read_json(best)), self._step))
        self._attempt(lambda: self.opened.close(status))

    def _attempt(self, what: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            what()
        except Exception as error:
            self.failed = True
            self.say(
                f"The logger {self.kind} has failed and is dropped ({_in_one_line(error)}). The training continues, "
                f"and so does {self.run.folder / 'metrics.jsonl'}."
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
        LoggerError: one cannot start. A resumed run continues without it, with a message.
        WriteError: the ids cannot be written.
    """
    if not names or not is_first_process():
        return []
    known = _known_ids(run.folder / IDS, say) if run.steps_done else {}
    opened: list[GuardedLogger] = []
    for name in names:
        try:
            logger = GuardedLogger(name, KINDS[name](run, known.get(name)), run, say)
        except Exception as error:
            problem = f"The logger {name} cannot start ({_in_one_line(error)})."
            if not run.steps_done:
                raise LoggerError(f"{problem} Leave it out of --loggers; see docs/loggers.md.") from error
            say(f"{problem} The run continues without it.")
            continue
        opened.append(logger)
        say(f"logging to {name}: {logger.opened.where}")
    with writing(run.folder):
        ids = known | {logger.kind: logger.version for logger in opened}
        write_file(run.folder / IDS, json.dumps(ids, indent=1))
    return [*opened]


def _known_ids(file: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Read the loggers' ids; none, with a message, if the file is damaged."""
    try:
        return {name: str(identity) for name, identity in read_json(file).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        say(f"{file} cannot be read ({error}). The loggers start a new run.")
        return {}


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
