"""Open TensorBoard, MLflow and Weights & Biases by Lightning's loggers, so that a resumed run continues in them."""

import os
from collections.abc import Callable
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
    """

    folder: Path
    steps_done: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class OpenLogger:
    """A logger that has opened a run.

    Attributes:
        logger: Lightning's.
        identity: the id under which it finds the run again.
        where: where a person finds what it logs.
        log_best: logs the scores of the best checkpoint after so many steps.
        close: ends the run with the status success or failed.
    """

    logger: Any
    identity: str
    where: str
    log_best: Callable[[dict[str, float], int], None]
    close: Callable[[str], None]


def open_tensorboard(run: LoggedRun, known: str | None) -> OpenLogger:
    """Log to RUN/tensorboard; a resumed run hides the steps that it repeats."""
    logger = TensorBoardLogger(
        run.folder, name="", version="tensorboard", default_hp_metric=False, purge_step=run.steps_done + 1
    )

    def log_best(values: dict[str, float], step: int) -> None:
        """Log the run's line on the page of hyper-parameters."""
        logger.log_hyperparams(run.parameters, values, step)

    return OpenLogger(logger, "tensorboard", f"tensorboard --logdir {logger.log_dir}", log_best, logger.finalize)


def open_mlflow(run: LoggedRun, known: str | None) -> OpenLogger:
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
    return OpenLogger(logger, identity, f"run {identity}, {shown}", logger.log_metrics, logger.finalize)


def open_wandb(run: LoggedRun, known: str | None) -> OpenLogger:
    """Log as WANDB_MODE says; without it online if there is an API key, else offline in RUN/wandb.

    A run that the caller has started by `wandb.init` is used, and left open. Offline, each part of a resumed run has
    a folder of its own, with the same id.

    Raises:
        ValueError: WANDB_MODE is online, and there is no API key.
    """
    import wandb

    theirs = wandb.run
    mode, why = (None, "your run") if theirs else _wandb_mode()
    logger = WandbLogger(
        os.environ.get("WANDB_NAME", run.folder.resolve().name),
        os.environ.get("WANDB_DIR", str(run.folder)),
        project=wandb.setup().settings.project or PROJECT,
        id=known,
        experiment=theirs,
        resume="allow" if known and mode == "online" else None,
        mode=mode,
    )
    logger.log_hyperparams(run.parameters)
    opened: Any = logger.experiment

    def close(status: str) -> None:
        """End the run, which uploads the rest; leave the caller's open."""
        logger.finalize(status)
        if not theirs:
            opened.finish(exit_code=0 if status == "success" else 1)

    offline = f"offline ({why}), wandb sync {Path(opened.dir).parent}"
    where = offline if opened.offline else opened.url or "disabled"
    return OpenLogger(logger, opened.id, where, logger.log_metrics, close)


KINDS: dict[LoggerName, Callable[[LoggedRun, str | None], OpenLogger]] = {
    "tensorboard": open_tensorboard,
    "mlflow": open_mlflow,
    "wandb": open_wandb,
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
