"""Log a run to TensorBoard, MLflow and Weights & Biases too. One that fails is dropped; the training continues."""

import importlib
import json
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from oddetr.checkpoints.checkpoint import DESCRIPTION
from oddetr.common.durable import write_file, writing
from oddetr.common.untrusted import read_json
from oddetr.training.config import LoggerName
from oddetr.training.processes import is_first_process
from oddetr.training.records.logged import best_values

IDS = "loggers.json"
"""The file in the run's folder with the id under which each logger knows the run."""
PROJECT = "oddetr"
"""MLflow's experiment and wandb's project, unless their own environment variables name one."""


class LoggerError(RuntimeError):
    """A logger's package is missing, or the logger cannot start."""


@dataclass(frozen=True)
class LoggedRun:
    """A run that starts or is resumed, for a logger: its folder, the optimizer steps that are done already, and its
    configuration as `oddetr.training.records.logged.parameters` names it."""

    folder: Path
    steps_done: int
    parameters: dict[str, Any]


class GuardedLogger(Logger):
    """Drop a logger at its first failure, with a message, and let the training continue."""

    def __init__(self, kind: LoggerName, logger: Logger, run: LoggedRun, say: Callable[[str], None]) -> None:
        super().__init__()
        self.kind, self.logger, self.run, self.say = kind, logger, run, say
        self.identity = str(logger.version)
        self.failed = False
        self._step = run.steps_done

    @property
    def name(self) -> str:
        return self.kind

    @property
    def version(self) -> str:
        return self.identity

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._step = self._step if step is None else step
        self._attempt(lambda: self.logger.log_metrics({**metrics}, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._attempt(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    def finalize(self, status: str) -> None:
        """Log the scores of the best checkpoint, if any, and close the logger with `status` success or failed."""
        best = self.run.folder / "best" / DESCRIPTION
        if best.is_file():
            self._attempt(lambda: self._log_best(best_values(read_json(best))))
        self._attempt(lambda: self.logger.finalize(status))

    def _log_best(self, values: dict[str, float]) -> None:
        """TensorBoard's page of hyper-parameters needs the configuration together with scores."""
        if isinstance(self.logger, TensorBoardLogger):
            self.logger.log_hyperparams(self.run.parameters, values, self._step)
        else:
            self.logger.log_metrics(values, self._step)

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
            logger, where = _OPENERS[name](run, known.get(name))
            opened.append(GuardedLogger(name, logger, run, say))
            say(f"logging to {name}: {where}")
        except Exception as error:
            problem = f"The logger {name} cannot start ({_in_one_line(error)})."
            if not run.steps_done:
                raise LoggerError(f"{problem} Leave it out of --loggers; see docs/loggers.md.") from error
            say(f"{problem} The run continues without it.")
    with writing(run.folder):
        ids = known | {logger.kind: logger.version for logger in opened}
        write_file(run.folder / IDS, json.dumps(ids, indent=1))
    return [*opened]


def _known_ids(file: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Read the loggers' ids; none, with a message, if the file is damaged."""
    try:
        return {name: str(identity) for name, identity in read_json(file).items()} if file.exists() else {}
    except (OSError, ValueError, AttributeError) as error:
        say(f"{file} cannot be read ({error}). The loggers start a new run.")
        return {}


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _open_tensorboard(run: LoggedRun, known: str | None) -> tuple[Logger, str]:
    """Log to RUN/tensorboard; a resumed run hides the steps that it repeats."""
    logger = TensorBoardLogger(
        run.folder, name="", version="tensorboard", default_hp_metric=False, purge_step=run.steps_done + 1
    )
    return logger, f"tensorboard --logdir {logger.log_dir}"


def _open_mlflow(run: LoggedRun, known: str | None) -> tuple[Logger, str]:
    """Log to the store of MLFLOW_TRACKING_URI, else to RUN/mlflow: SQLite and a folder of artifacts."""
    import mlflow

    given = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    folder = (run.folder / "mlflow").resolve()
    if given is None:
        folder.mkdir(parents=True, exist_ok=True)
    store = given or f"sqlite:///{folder / 'mlflow.db'}"
    try:
        logger = MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            run_name=run.folder.resolve().name,
            tracking_uri=store,
            artifact_location=None if given else (folder / "artifacts").as_uri(),
            run_id=known,
        )
        identity = str(logger.run_id)
    finally:  # Lightning's logger changes the store of the whole process.
        mlflow.set_tracking_uri(given)  # pyright: ignore[reportArgumentType]
    if known:
        logger.experiment.update_run(identity, status="RUNNING")
    else:
        logger.log_hyperparams(run.parameters)
    shown = "the store of MLFLOW_TRACKING_URI" if given else f"mlflow ui --backend-store-uri {store}"
    return logger, f"run {identity}, {shown}"


class _FinishedWandb(WandbLogger):
    """End the run with the training, which uploads the rest; Lightning's logger leaves that to the process's end."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.experiment.finish(exit_code=0 if status == "success" else 1)


def _open_wandb(run: LoggedRun, known: str | None) -> tuple[Logger, str]:
    """Log as WANDB_MODE says, but offline in RUN/wandb without an API key, which wandb would ask for.

    A run that the caller has started by `wandb.init` is used, and left open. Offline, each part of a resumed run has
    a folder of its own, with the same id.
    """
    import wandb

    theirs = wandb.run
    mode: Any = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode == "online" and not theirs and not wandb.login(prompt=False, verify=False):
        mode = "offline"
    logger = (WandbLogger if theirs else _FinishedWandb)(
        os.environ.get("WANDB_NAME", run.folder.resolve().name),
        os.environ.get("WANDB_DIR", str(run.folder)),
        project=wandb.setup().settings.project or PROJECT,
        id=known,
        experiment=theirs,
        resume="allow" if known and mode == "online" else None,
        mode=None if theirs else mode,
    )
    logger.log_hyperparams(run.parameters)
    opened: Any = logger.experiment
    offline = f"offline, wandb sync {Path(opened.dir).parent}"
    return logger, offline if opened.offline else opened.url or "disabled"


_OPENERS: dict[LoggerName, Callable[[LoggedRun, str | None], tuple[Logger, str]]] = {
    "tensorboard": _open_tensorboard,
    "mlflow": _open_mlflow,
    "wandb": _open_wandb,
}
