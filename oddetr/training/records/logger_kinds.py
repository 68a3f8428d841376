"""TensorBoard, MLflow and Weights & Biases: how each takes up a run, and what it is told besides numbers."""

import json
import logging
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from oddetr.training.config import LoggerName
from oddetr.training.records.logged import best_values

PROJECT = "oddetr"
"""MLflow's experiment and wandb's project, where their own variables name none."""
_LONGEST_PARAMETER, _PARAMETERS_AT_ONCE = 6000, 100
"""What MLflow takes."""


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run when it begins or goes on.

    Attributes:
        folder: the run's.
        steps_done: optimizer steps after which it goes on; 0 where it begins.
        parameters: see `oddetr.training.records.logged.parameters`.
        versions: of packages, by name.
    """

    folder: Path
    steps_done: int
    parameters: dict[str, Any]
    versions: dict[str, str]


@runtime_checkable
class BegunLogger(Protocol):
    """A logger that has taken up a run.

    Attributes:
        identity: by which it finds the run again.
        where: where a person finds what it logs.
    """

    identity: str
    where: str

    @property
    def logger(self) -> Logger:
        """Lightning's, for the numbers."""
        ...

    def tell_best(self, file: Path, description: dict[str, Any], step: int) -> None:
        """Keeps the description of the best checkpoint: `file`, and what stands in it."""
        ...

    def end(self, status: str) -> None:
        """Ends: success or failed."""
        ...


class TensorBoard:
    """In the run's folder tensorboard. A resumed run hides what was logged of steps that it does again."""

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        self.run, self.identity = run, "tensorboard"
        self.logger = TensorBoardLogger(
            run.folder,
            name="",
            version=self.identity,
            default_hp_metric=False,
            purge_step=run.steps_done + 1,
        )
        self.where = f"tensorboard --logdir {self.logger.log_dir}"
        for name, content in (("configuration", run.parameters), ("versions", run.versions)):
            self.logger.experiment.add_text(name, _markdown(content), run.steps_done)

    def tell_best(self, file: Path, description: dict[str, Any], step: int) -> None:
        """As a text, and the run's line on the page of hyper-parameters."""
        self.logger.experiment.add_text("best", _markdown(description), step)
        self.logger.log_hyperparams(self.run.parameters, best_values(description), step)

    def end(self, status: str) -> None:
        """Writes and closes the file."""
        self.logger.finalize(status)


class MLflow:
    """In the store of MLFLOW_TRACKING_URI, else in the run's folder mlflow: SQLite and a folder of artifacts."""

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        import mlflow

        given = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        folder = (run.folder / "mlflow").resolve()
        if given is None:
            folder.mkdir(parents=True, exist_ok=True)
        store = given or f"sqlite:///{folder / 'mlflow.db'}"
        try:
            with _silent("lightning.pytorch.loggers.mlflow", "mlflow.store.db.utils", "alembic"):
                self.logger = MLFlowLogger(
                    os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
                    run_name=run.folder.resolve().name,
                    tracking_uri=store,
                    tags={**run.versions},  # It adds its own.
                    artifact_location=None if given else (folder / "artifacts").as_uri(),
                    run_id=known,
                )
                self.identity = str(self.logger.run_id)
        finally:  # Lightning's logger sets the store of all that the process does later.
            mlflow.set_tracking_uri(given)  # pyright: ignore[reportArgumentType]
        shown = "the store of MLFLOW_TRACKING_URI" if given else f"mlflow ui --backend-store-uri {store}"
        self.where = f"run {self.identity}, {shown}"
        if known:
            self.logger.experiment.update_run(self.identity, status="RUNNING")
        else:
            self._log_parameters(run.parameters)

    def _log_parameters(self, values: dict[str, Any]) -> None:
        """Lightning's own way keeps 250 characters of each."""
        from mlflow.entities import Param

        found = [Param(name, str(value)[:_LONGEST_PARAMETER]) for name, value in values.items()]
        for i in range(0, len(found), _PARAMETERS_AT_ONCE):
            self.logger.experiment.log_batch(self.identity, params=found[i : i + _PARAMETERS_AT_ONCE])

    def tell_best(self, file: Path, description: dict[str, Any], step: int) -> None:
        """As numbers and as the artifact best/checkpoint.json."""
        self.logger.log_metrics(best_values(description), step)
        self.logger.experiment.log_artifact(self.identity, str(file), "best")

    def end(self, status: str) -> None:
        """The run is FINISHED or FAILED."""
        self.logger.finalize(status)


class WeightsAndBiases:
    """As WANDB_MODE says; where nothing says, online with an API key, else offline in the run's folder wandb.

    A run that the caller has begun by `wandb.init` is used, and left open. Offline, each part of a resumed run has a
    folder of its own, with the same id.

    Raises:
        ValueError: WANDB_MODE is online, and there is no API key.
    """

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        import wandb

        self._theirs = wandb.run is not None
        mode, why = (None, "your run") if self._theirs else _wandb_mode()
        self.run = wandb.run or wandb.init(
            project=wandb.setup().settings.project or PROJECT,
            name=os.environ.get("WANDB_NAME", run.folder.resolve().name),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            id=known,
            resume="allow" if known and mode == "online" else None,
            mode=mode,
            tags=[f"{name} {version}"[:64] for name, version in run.versions.items()],
        )
        self.run.config.update(run.parameters, allow_val_change=True)
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self.logger = WandbLogger(experiment=self.run)
        self.identity = self.run.id
        folder = Path(self.run.dir).parent
        self.where = f"offline ({why}), wandb sync {folder}" if self.run.offline else self.run.url or "disabled"

    def tell_best(self, file: Path, description: dict[str, Any], step: int) -> None:
        """As the run's summary and as the file best/checkpoint.json."""
        self.run.summary.update(best_values(description))
        if not Path(self.run.dir).is_dir():  # WANDB_MODE is disabled.
            return
        copy = Path(self.run.dir) / "best" / file.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
        self.run.save(str(copy), base_path=self.run.dir, policy="now")

    def end(self, status: str) -> None:
        """Uploads what is left, where online."""
        self.logger.finalize(status)
        if not self._theirs:
            self.run.finish(exit_code=0 if status == "success" else 1)


KINDS: dict[LoggerName, type[TensorBoard] | type[MLflow] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def _wandb_mode() -> tuple[Any, str]:
    """The mode for `wandb.init`, never one in which it would ask for an API key; and why that one."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode != "online" or wandb.login(prompt=False, verify=False):
        return mode, "as set"
    if "WANDB_MODE" in os.environ:
        raise ValueError("WANDB_MODE is online, but there is no API key: `wandb login`, or WANDB_MODE=offline")
    return "offline", "there is no API key: wandb login"


def _markdown(content: dict[str, Any]) -> str:
    """Lines that TensorBoard shows as they are."""
    return "\n".join("    " + line for line in json.dumps(content, indent=1, default=str).splitlines())


@contextmanager
def _silent(*names: str) -> Generator[None]:
    """Keeps what these log of their beginnings to itself, but for errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
