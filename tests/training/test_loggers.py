"""One run with all loggers, killed and resumed, read back through each package's own reader; and what goes wrong."""

import dataclasses
import errno
import io
import json
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from oddetr.cli import main
from oddetr.common.durable import WriteError
from oddetr.training.config import TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.records.logged import logged_values
from oddetr.training.records.logger_kinds import LoggedRun
from oddetr.training.records.loggers import LoggerError, check_packages, open_loggers
from oddetr.training.run import run
from oddetr.training.safety.resume import differences, resumed
from tests.conftest import tiny_arguments
from tests.training.test_run import StopAfter

# MLflow's own, with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

ODD = ("a/b: ünï", "a/b? ünï")
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
def odd_scenes(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes, two classes of which have names that no logger takes as they are."""
    folder = tmp_path_factory.mktemp("odd") / "scenes"
    shutil.copytree(scenes, folder)
    for file in (folder / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category, name in zip(content["categories"], ODD, strict=False):
            category["name"] = name
        file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def logged(odd_scenes: Path, tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    """The folder of a run of two epochs, killed in the second and resumed."""
    arguments = tiny_arguments(odd_scenes, tmp_path_factory.mktemp("logged") / "run")
    arguments |= {"epochs": 2, "loggers": ("tensorboard", "mlflow", "wandb")}
    arguments["trainer"] |= {"callbacks": [StopAfter(1)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments), Console(file=io.StringIO()))
    return run(TrainConfig(out=arguments["out"], resume=True), Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def expected(logged: Path) -> dict[str, dict[int, float]]:
    """To each name the values by step, of metrics.jsonl."""
    found: dict[str, dict[int, float]] = {}
    for event in read_events(logged):
        for name, value in logged_values(event).items():
            found.setdefault(name, {})[event["step"]] = value
    assert {"train/loss", "train/learning_rate", "val/student/AP", "val/teacher/instability_per_layer/2"} <= {*found}
    assert {"val/teacher/AP_per_class/a_b_ _n_", "val/teacher/AP_per_class/a_b_ _n__1"} <= {*found}
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
    assert found.data.params["classes"].startswith(", ".join(ODD))
    description = json.loads((logged / "best" / "checkpoint.json").read_text())
    assert {**description["versions"]}.items() <= found.data.tags.items()
    assert found.data.metrics["best/epoch"] == description["epoch"]
    (artifact,) = (logged / "mlflow" / "artifacts").rglob("checkpoint.json")
    assert json.loads(artifact.read_text()) == description


def test_tensorboard_has_all_values_in_one_folder_after_a_resume(
    logged: Path, expected: dict[str, dict[int, float]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard"))
    events.Reload()
    for name, values in expected.items():
        assert {event.step: event.value for event in events.Scalars(name)} == pytest.approx(values)
    assert {"configuration/text_summary", "versions/text_summary", "best/text_summary"} <= {*events.Tags()["tensors"]}
    assert events.Scalars("best/teacher/AP")
    assert "_hparams_/session_start_info" in events.summary_metadata


def wandb_records(file: Path) -> Iterator[Any]:
    """Of wandb's file, a log as LevelDB writes it: blocks of 32 KiB, records cut at their ends."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found = wandb_internal_pb2.Record()
            found.ParseFromString(record)
            yield found
            record = b""


def test_wandb_offline_has_both_parts_of_a_resumed_run_under_one_id(
    logged: Path, expected: dict[str, dict[int, float]]
) -> None:
    files = sorted((logged / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 2
    records = [record for file in files for record in wandb_records(file)]
    begun = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {told.run_id for told in begun} == {json.loads((logged / "loggers.json").read_text())["wandb"]}
    assert {(told.project, told.display_name) for told in begun} == {("oddetr", "run")}
    versions = json.loads((logged / "best" / "checkpoint.json").read_text())["versions"]
    assert [*begun[0].tags] == [f"{name} {version}" for name, version in versions.items()]
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() & expected.keys():
                found.setdefault(name, {})[row["trainer/global_step"]] = row[name]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values)
    settings = {item.key or item.nested_key[0]: item.value_json for record in records for item in record.config.update}
    assert settings["detector.num_queries"] == "12"
    assert list((logged / "wandb").glob("offline-run-*/files/best/checkpoint.json"))


def logged_run(folder: Path, steps_done: int = 0) -> LoggedRun:
    folder.mkdir(exist_ok=True)
    return LoggedRun(folder, steps_done, {"epochs": 1, "long": "x" * 7000}, {"oddetr": "1"})


def test_tensorboard_shows_repeated_steps_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3, 4)), (2, (3,))):
        (logger,) = open_loggers(["tensorboard"], logged_run(tmp_path, done), print)
        for step in steps:
            logger.log_metrics({"x": step + done / 10}, step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("x")] == [(1, 1), (2, 2), (3, pytest.approx(3.2))]


def test_mlflow_uses_a_given_store_and_its_loss_is_reported_once(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    """Long values are cut; when the store is gone, that is told once."""
    import mlflow

    store = f"sqlite:///{tmp_path / 'given.db'}"
    mlflow.set_tracking_uri(store)
    try:
        told: list[str] = []
        (logger,) = open_loggers(["mlflow"], logged_run(tmp_path / "run"), told.append)
        assert mlflow.get_tracking_uri() == store
        assert mlflow.MlflowClient().get_run(str(logger.version)).data.params["long"] == "x" * 250
        assert "MLFLOW_TRACKING_URI" in told[0]
        assert not (tmp_path / "run" / "mlflow").exists()
        assert open_loggers(["mlflow"], logged_run(tmp_path / "run", 3), told.append)[0].version == logger.version
        (tmp_path / "given.db").unlink()
        logger.log_metrics({"x": 1.0}, 1)
        logger.log_metrics({"x": 2.0}, 2)
        logger.finalize("success")
        assert [text for text in told if "mlflow has failed" in text] == told[2:]
        assert len(told) == 3
    finally:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [(None, False, "offline"), (None, True, "online"), ("disabled", True, "disabled"), ("online", False, None)],
)
def test_wandb_never_asks_for_a_key(
    mode: str | None, key: bool, expected: str | None, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    import wandb

    asked: list[str] = []

    def begin(**arguments: Any) -> None:
        asked.append(arguments["mode"])
        raise ConnectionError("nothing is begun here")

    with environment.context() as patch:
        patch.delenv("WANDB_MODE")
        wandb.teardown()
        if mode:
            patch.setenv("WANDB_MODE", mode)
        if key:
            patch.setenv("WANDB_API_KEY", "0" * 40)
        patch.setattr(wandb, "init", begin)
        with pytest.raises(LoggerError, match="nothing is begun here" if expected else "there is no API key"):
            open_loggers(["wandb"], logged_run(tmp_path), print)
        assert asked == ([expected] if expected else [])
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
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "checkpoint.json").write_text('{"epoch": 1, "metrics": {}}')
    with environment.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        told: list[str] = []
        (logger,) = open_loggers(["wandb"], logged_run(tmp_path), told.append)
        logger.log_metrics({"x": 2.0}, 3)
        logger.finalize("success")
    assert told == ["logging to wandb: disabled"]


def test_training_goes_on_when_a_logger_fails_and_says_so_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(self: TensorBoardLogger, metrics: dict[str, float], step: int) -> None:
        calls.append(step)
        if len(calls) == 2:
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", fail)
    told = io.StringIO()
    run(dataclasses.replace(config, epochs=2, loggers=("tensorboard",)), Console(file=told, width=300))
    assert told.getvalue().count("The logger tensorboard has failed") == 1
    assert "ConnectionError: the server is gone" in told.getvalue()
    assert calls == [2, 2]
    assert [event["epoch"] for event in read_events(config.out) if event["kind"] == "epoch"] == [1, 2]


def test_a_logger_that_cannot_begin_stops_a_new_run_but_no_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddetr.training.records.logger_kinds.TensorBoardLogger", lambda *_, **__: 1 / 0)
    with pytest.raises(LoggerError, match="The logger tensorboard cannot begin"):
        open_loggers(["tensorboard"], logged_run(tmp_path), print)
    told: list[str] = []
    assert open_loggers(["tensorboard"], logged_run(tmp_path, steps_done=2), told.append) == []
    assert "cannot go on" in told[0]


@pytest.mark.parametrize("content", ['{"tensorboard": "te', "[3]", '{"tensorboard": {}}'])
def test_a_damaged_file_of_ids_is_reported_and_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "loggers.json").write_text(content)
    told: list[str] = []
    assert open_loggers([], logged_run(tmp_path, steps_done=2), told.append) == []
    assert told == []
    (logger,) = open_loggers(["tensorboard"], logged_run(tmp_path, steps_done=2), told.append)
    logger.finalize("success")
    assert told[0].startswith(f"{tmp_path / 'loggers.json'} cannot be read (")
    assert told[0].endswith("). The loggers begin the run anew.")
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"tensorboard": logger.version}


def test_ids_stay_when_new_ones_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loggers.json").write_text('{"mlflow": "7"}')
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(WriteError, match="No space left on device"):
        open_loggers(["tensorboard"], logged_run(tmp_path, steps_done=2), print)
    assert (tmp_path / "loggers.json").read_text() == '{"mlflow": "7"}'


def test_only_the_first_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_loggers(["tensorboard"], logged_run(tmp_path), print) == []
    assert [*tmp_path.iterdir()] == []


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(LoggerError, match="wandb needs the package wandb"):
        check_packages(["wandb"])
    assert main(["train", "--loggers", "wandb", "--out", str(tmp_path / "run")]) == 1
    assert "pip install wandb" in " ".join(capsys.readouterr().err.split())
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("given", ["tensorboard,mlflow", "[tensorboard, mlflow]", "tensorboard,mlflow,tensorboard"])
def test_loggers_are_named_in_the_same_ways_on_the_command_line_and_in_python(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--loggers", given, "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)["loggers"]
    for names in (printed, ["tensorboard", "mlflow"], ("tensorboard", "mlflow", "tensorboard")):
        assert TrainConfig.from_plain({"loggers": names}).loggers == ("tensorboard", "mlflow")


def test_an_unknown_logger_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--loggers", "mlflow,comet"])
    assert "loggers takes tensorboard or mlflow or wandb" in capsys.readouterr().err


def test_resume_goes_on_with_the_tensorboard_switch_of_oddetr_0_1(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    content = json.loads((out / "config.json").read_text())
    del content["loggers"]
    (out / "config.json").write_text(json.dumps(content | {"tensorboard": True}))
    config, _ = resumed(TrainConfig(out=out, resume=True), out, print)
    assert config.loggers == ("tensorboard",)
    assert resumed(TrainConfig(out=out, resume=True, loggers=("mlflow",)), out, print)[0].loggers == ("mlflow",)
    assert differences(content | {"tensorboard": True}, config.to_json()) == []
