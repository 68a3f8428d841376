"""TensorBoard, MLflow and Weights & Biases: Lightning's loggers, and what they log besides numbers."""

import json
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from oddetr.training.config import LoggerName

PROJECT = "oddetr"
"""MLflow's experiment and wandb's project, unless their own environment variables name one."""


@dataclass(frozen=True)
class LoggedRun:
    """A run that starts or is resumed, for a logger.

    Attributes:
        folder: the run's.
        steps_done: optimizer steps done before; 0 for a new run.
        parameters: see `oddetr.training.records.logged.parameters`.
        versions: of packages, by name.
    """

    folder: Path
    steps_done: int
    parameters: dict[str, Any]
    versions: dict[str, str]


class OpenLogger:
    """A logger that has opened a run: one of Lightning's, and what it cannot do by itself.

    Attributes:
        logger: Lightning's.
        identity: the id under which it finds the run again.
        where: where a person finds what it logs.
    """

    logger: Any
    identity: str
    where: str

    def log_best(self, file: Path, values: dict[str, float], step: int) -> None:
        """Log the numbers of the best checkpoint, and its description `file`."""
        raise NotImplementedError

    def close(self, status: str) -> None:
        """End the run with `status` success or failed."""
        self.logger.finalize(status)


class TensorBoard(OpenLogger):
    """Log to RUN/tensorboard; a resumed run hides the steps that it repeats."""

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        self.run, self.identity = run, "tensorboard"
        self.logger = TensorBoardLogger(
            run.folder, name="", version=self.identity, default_hp_metric=False, purge_step=run.steps_done + 1
        )
        self.where = f"tensorboard --logdir {self.logger.log_dir}"
        self._add_text("configuration", run.parameters, run.steps_done)
        self._add_text("versions", run.versions, run.steps_done)

    def log_best(self, file: Path, values: dict[str, float], step: int) -> None:
        """Log the description as text, and the run's line on the page of hyper-parameters."""
        self._add_text("best", json.loads(file.read_text()), step)
        self.logger.log_hyperparams(self.run.parameters, values, step)

    def _add_text(self, name: str, content: Any, step: int) -> None:
        """Add text as a code block: TensorBoard renders Markdown."""
        text = json.dumps(content, indent=1, default=str)
        self.logger.experiment.add_text(name, textwrap.indent(text, "    "), step)


class MLflow(OpenLogger):
    """Log to the store of MLFLOW_TRACKING_URI, else to RUN/mlflow: SQLite and a folder of artifacts."""

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        import mlflow

        given = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        folder = (run.folder / "mlflow").resolve()
        if given is None:
            folder.mkdir(parents=True, exist_ok=True)
        store = given or f"sqlite:///{folder / 'mlflow.db'}"
        try:
            self.logger = MLFlowLogger(
                os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
                run_name=run.folder.resolve().name,
                tracking_uri=store,
                tags={**run.versions},  # It adds its own.
                artifact_location=None if given else (folder / "artifacts").as_uri(),
                run_id=known,
            )
            self.identity = str(self.logger.run_id)
        finally:  # Lightning's logger changes the store of the whole process.
            mlflow.set_tracking_uri(given)  # pyright: ignore[reportArgumentType]
        shown = "the store of MLFLOW_TRACKING_URI" if given else f"mlflow ui --backend-store-uri {store}"
        self.where = f"run {self.identity}, {shown}"
        if known:
            self.logger.experiment.update_run(self.identity, status="RUNNING")
        else:
            self.logger.log_hyperparams(run.parameters)

    def log_best(self, file: Path, values: dict[str, float], step: int) -> None:
        """Log the numbers as metrics, and the description as the artifact best/checkpoint.json."""
        self.logger.log_metrics(values, step)
        self.logger.experiment.log_artifact(self.identity, str(file), "best")


class WeightsAndBiases(OpenLogger):
    """Log as WANDB_MODE says; without it online if there is an API key, else offline in RUN/wandb.

    A run that the caller has started by `wandb.init` is used, and left open. Offline, each part of a resumed run has
    a folder of its own, with the same id.

    Raises:
        ValueError: WANDB_MODE is online, and there is no API key.
    """

    def __init__(self, run: LoggedRun, known: str | None) -> None:
        import wandb

        self._theirs = wandb.run is not None
        mode, why = (None, "your run") if self._theirs else _wandb_mode()
        self.logger = WandbLogger(
            os.environ.get("WANDB_NAME", run.folder.resolve().name),
            os.environ.get("WANDB_DIR", str(run.folder)),
            project=wandb.setup().settings.project or PROJECT,
            id=known,
            experiment=wandb.run,
            resume="allow" if known and mode == "online" else None,
            mode=mode,
            tags=[f"{name} {version}"[:64] for name, version in run.versions.items()],
        )
        self.logger.log_hyperparams(run.parameters)
        self.run: Any = self.logger.experiment
        self.identity = self.run.id
        folder = Path(self.run.dir).parent
        self.where = f"offline ({why}), wandb sync {folder}" if self.run.offline else self.run.url or "disabled"

    def log_best(self, file: Path, values: dict[str, float], step: int) -> None:
        """Log the numbers as the run's summary, and the description as the file best/checkpoint.json."""
        self.run.summary.update(values)
        self.run.save(str(file), base_path=str(file.parents[1]), policy="now")

    def close(self, status: str) -> None:
        """End the run, which uploads the rest; leave the caller's open."""
        super().close(status)
        if not self._theirs:
            self.run.finish(exit_code=0 if status == "success" else 1)


KINDS: dict[LoggerName, type[TensorBoard] | type[MLflow] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def _wandb_mode() -> tuple[Any, str]:
    """The mode for `wandb.init`, never one in which it would ask for an API key, and the reason."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode != "online" or wandb.login(prompt=False, verify=False):
        return mode, "as set"
    if "WANDB_MODE" in os.environ:
        raise ValueError("WANDB_MODE is online, but there is no API key: `wandb login`, or WANDB_MODE=offline")
    return "offline", "there is no API key: wandb login"
