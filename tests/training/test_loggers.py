"""One run with all loggers, killed and resumed, read back through each package's own reader; and what goes wrong."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from oddetr.cli import main
from oddetr.training.config import TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.records.logged import logged_values
from oddetr.training.records.loggers import LoggedRun, LoggerError, open_loggers
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.training.helpers import killed_at, quiet

# MLflow's own, with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

ENVIRONMENT = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
FOREIGN = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of the user's own settings; wandb offline."""
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("WANDB_CONFIG_DIR", str(tmp_path_factory.mktemp("wandb")))
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("netrc") / "none"))
        yield patch
        wandb.teardown()


@pytest.fixture(scope="module")
def logged(scenes: Path, tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    """The folder of a run of two epochs, killed in the second and resumed."""
    arguments = tiny_arguments(scenes, tmp_path_factory.mktemp("logged") / "run")
    arguments |= {"epochs": 2, "loggers": ("tensorboard", "mlflow", "wandb")}
    arguments["trainer"] |= {"callbacks": [killed_at(3)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments), quiet())
    return run(TrainConfig(out=arguments["out"], resume=True), quiet())


@pytest.fixture(scope="module")
def expected(logged: Path) -> dict[str, dict[int, float]]:
    """To each name the values by step, of metrics.jsonl."""
    found: dict[str, dict[int, float]] = {}
    for event in read_events(logged):
        for name, value in logged_values(event).items():
            found.setdefault(name, {})[event["step"]] = value
    assert {"train/loss", "train/learning_rate", "val/student/AP", "val/teacher/instability_per_layer/2"} <= {*found}
    assert [*found["train/loss"]] == [*found["val/teacher/AP"]] == [2, 4]
    return found


def test_mlflow_has_one_run_with_all_values_after_a_resume(logged: Path, expected: dict[str, dict[int, float]]) -> None:
    import mlflow
    from mlflow import MlflowClient

    assert not mlflow.is_tracking_uri_set(), "what the process logs next would land in this run's folder"
    client = MlflowClient(f"sqlite:///{logged / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("oddetr")
    assert experiment
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    for name, values in expected.items():
        history = client.get_metric_history(found.info.run_id, name)
        assert {metric.step: metric.value for metric in history} == pytest.approx(values)
    configuration = json.loads((logged / "config.json").read_text())
    assert found.data.params["optimizer.learning_rate"] == str(configuration["optimizer"]["learning_rate"])
    assert found.data.params["detector.num_queries"] == "12"
    assert found.data.params["classes"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    description = json.loads((logged / "best" / "checkpoint.json").read_text())
    assert found.data.params["version.torch"] == description["versions"]["torch"]
    assert found.data.metrics["best/epoch"] == description["epoch"]


def test_tensorboard_has_all_values_in_one_folder_after_a_resume(
    logged: Path, expected: dict[str, dict[int, float]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"))
    events.Reload()
    for name, values in expected.items():
        found = events.Scalars(name)
        assert {event.step: event.value for event in found} == pytest.approx(values)
        assert len(found) == len(values), "a step that is repeated is shown once"
    assert events.Scalars("best/teacher/AP")
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_wandb_offline_has_both_parts_of_a_resumed_run_under_one_id(logged: Path) -> None:
    identity = json.loads((logged / "loggers.json").read_text())["wandb"]
    files = [*(logged / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb")]
    assert len(files) == len([*(logged / "wandb").glob("offline-run-*")]) == 2
    content = b"".join(file.read_bytes() for file in files)
    for name in ("val/teacher/AP", "train/loss", "best/teacher/AP", "detector.num_queries", "version.torch"):
        assert name.encode() in content, name


def logged_run(folder: Path, steps_done: int = 0) -> LoggedRun:
    folder.mkdir(exist_ok=True)
    return LoggedRun(folder, steps_done, {"epochs": 1, "long": "x" * 7000})


def test_mlflow_uses_a_given_store_and_its_loss_is_reported_once(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    """Long values are cut; a store that is gone is reported once."""
    import mlflow

    store = f"sqlite:///{tmp_path / 'given.db'}"
    mlflow.set_tracking_uri(store)
    try:
        messages: list[str] = []
        (logger,) = open_loggers(["mlflow"], logged_run(tmp_path / "run"), messages.append)
        assert mlflow.get_tracking_uri() == store
        assert mlflow.MlflowClient().get_run(str(logger.version)).data.params["long"] == "x" * 250
        assert "MLFLOW_TRACKING_URI" in messages[0]
        assert not (tmp_path / "run" / "mlflow").exists()
        assert open_loggers(["mlflow"], logged_run(tmp_path / "run", 3), messages.append)[0].version == logger.version
        (tmp_path / "given.db").unlink()
        logger.log_metrics({"x": 1.0}, 1)
        logger.log_metrics({"x": 2.0}, 2)
        logger.finalize("success")
        assert [text for text in messages if "mlflow has failed" in text] == messages[2:]
        assert len(messages) == 3
    finally:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("mode", "key", "expected"), [("online", False, "offline"), (None, True, "online")])
def test_wandb_never_asks_for_a_key(
    mode: str | None, key: bool, expected: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    import wandb

    init = Mock(side_effect=ConnectionError("nothing is started here"))
    with environment.context() as patch:
        patch.delenv("WANDB_MODE")
        wandb.teardown()
        if mode:
            patch.setenv("WANDB_MODE", mode)
        if key:
            patch.setenv("WANDB_API_KEY", "0" * 40)
        patch.setattr(wandb, "init", init)
        with pytest.raises(LoggerError, match="nothing is started here"):
            open_loggers(["wandb"], logged_run(tmp_path), print)
        assert init.call_args.kwargs["mode"] == expected
    wandb.teardown()


def test_wandb_uses_a_run_of_the_caller_and_leaves_it_open(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    import wandb

    with wandb.init(dir=tmp_path, project="theirs") as theirs:
        (logger,) = open_loggers(["wandb"], logged_run(tmp_path), print)
        logger.log_metrics({"x": 2.0}, 3)
        logger.finalize("success")
        assert wandb.run is theirs
        assert theirs.summary["x"] == 2.0
        assert theirs.config["epochs"] == 1


def test_wandb_disabled_does_nothing(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    with environment.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        messages: list[str] = []
        (logger,) = open_loggers(["wandb"], logged_run(tmp_path), messages.append)
        logger.log_metrics({"x": 2.0}, 3)
        logger.finalize("success")
    assert messages == ["logging to wandb: disabled"]


def test_training_continues_when_a_logger_fails_and_says_so_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def fail(self: TensorBoardLogger, metrics: dict[str, float], step: int) -> None:
        steps.append(step)
        if len(steps) == 2:
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", fail)
    console = quiet()
    run(dataclasses.replace(config, epochs=2, loggers=("tensorboard",)), console)
    assert console.file.getvalue().count("The logger tensorboard has failed") == 1
    assert "ConnectionError: the server is gone" in console.file.getvalue()
    assert steps == [2, 2]
    assert [event["epoch"] for event in read_events(config.out) if event["kind"] == "epoch"] == [1, 2]


def test_a_logger_that_cannot_start_stops_a_new_run_but_no_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddetr.training.records.loggers.TensorBoardLogger", lambda *_, **__: 1 / 0)
    with pytest.raises(LoggerError, match="The logger tensorboard cannot start"):
        open_loggers(["tensorboard"], logged_run(tmp_path), print)
    messages: list[str] = []
    assert open_loggers(["tensorboard"], logged_run(tmp_path, steps_done=2), messages.append) == []
    assert "continues without it" in messages[0]


def test_a_damaged_file_of_ids_is_reported_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text('{"tensorboard": "te')
    messages: list[str] = []
    (logger,) = open_loggers(["tensorboard"], logged_run(tmp_path, steps_done=2), messages.append)
    logger.finalize("success")
    assert messages[0].startswith(f"{tmp_path / 'loggers.json'} cannot be read (")
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"tensorboard": logger.version}


def test_only_the_first_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_loggers(["tensorboard"], logged_run(tmp_path), print) == []
    assert [*tmp_path.iterdir()] == []


def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "--loggers", "wandb", "--out", str(tmp_path / "run")]) == 1
    assert "wandb needs the package wandb: pip install wandb" in " ".join(capsys.readouterr().err.split())
    assert [*tmp_path.iterdir()] == []


def test_loggers_are_named_in_the_same_ways_on_the_command_line_and_in_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--loggers", "tensorboard,mlflow,tensorboard", "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)["loggers"]
    for names in (printed, ["tensorboard", "mlflow"], ("tensorboard", "mlflow", "tensorboard")):
        assert TrainConfig.from_plain({"loggers": names}).loggers == ("tensorboard", "mlflow")
    with pytest.raises(SystemExit):
        main(["train", "--loggers", "mlflow,comet"])
    assert "loggers takes tensorboard or mlflow or wandb" in capsys.readouterr().err
