import csv
import dataclasses
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors.torch import load_file, save_file

import oddetr
from oddetr.data.digits import DigitScenes
from oddetr.data.faults import DataError
from oddetr.data.transforms import AugmentConfig
from oddetr.data.writer import write_coco
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.log import read_events
from oddetr.training.run import run


class StopAfter(Callback):
    """Kills the training, as a lost machine would, in the middle of the epoch after `epochs`."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == self.epochs:
            raise ConnectionAbortedError("killed by the test")


def weights(run_folder: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run_folder / which / "model.safetensors")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_run_when_killed_after_two_epochs_and_resumed_then_ends_in_the_same_weights(tiny: dict) -> None:
    whole = run(TrainConfig(**tiny), quiet())
    out = tiny["out"].with_name("resumed")
    trainer = tiny["trainer"] | {"callbacks": [StopAfter(2)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": trainer}), quiet())
    assert json.loads((out / "last" / "checkpoint.json").read_text())["epoch"] == 2

    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    expected, found = weights(whole), weights(out)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.equal(found[name]), name
    events = [[(e["kind"], e["step"], e.get("loss")) for e in read_events(folder)] for folder in (whole, out)]
    assert events[0] == events[1]


def test_run_when_repeated_then_ends_in_the_same_weights_and_with_another_seed_in_others(tiny: dict) -> None:
    tiny["epochs"] = 1
    runs = [
        run(TrainConfig(**tiny | {"out": tiny["out"] / str(i), "seed": seed}), quiet())
        for i, seed in enumerate((0, 0, 1))
    ]
    first, second, third = (weights(folder) for folder in runs)
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(third[name]) for name in first)


def test_run_when_loaded_by_workers_then_ends_in_the_same_weights(tiny: dict) -> None:
    tiny["epochs"] = 1
    runs = [run(TrainConfig(**tiny | {"out": tiny["out"] / str(n), "workers": n}), quiet()) for n in (0, 2)]
    first, second = (weights(folder) for folder in runs)
    assert all(first[name].equal(second[name]) for name in first)


@pytest.fixture
def frozen(tiny: dict, tmp_path: Path) -> dict:
    """The tiny run with `pretrained` weights from a file, so that no batch norm looks at the batch; no dropout."""
    file = tmp_path / "backbone.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    detector = tiny["detector"] | {"dropout": 0.0, "pretrained": True}
    return tiny | {"epochs": 1, "backbone_weights": file, "detector": detector}


def test_run_when_accumulating_then_ends_close_to_the_run_of_one_large_batch(frozen: dict) -> None:
    """The two differ only in the order of additions, which Adam blows up where gradients are 0: small steps."""
    frozen |= {"augment": AugmentConfig(min_scale=1.0, crop=False), "optimizer": OptimizerConfig(learning_rate=1e-5)}
    runs = [
        run(TrainConfig(**frozen | {"out": frozen["out"] / name, "batch_size": size, "accumulate": parts}), quiet())
        for name, size, parts in (("large", 4, 1), ("parts", 2, 2))
    ]
    first, second = ([e for e in read_events(folder) if e["kind"] == "train"] for folder in runs)
    assert [e["step"] for e in first] == [e["step"] for e in second]
    large, parts = (weights(folder) for folder in runs)
    for name, value in large.items():
        torch.testing.assert_close(parts[name], value, atol=5e-6, rtol=0, msg=name)


def test_run_when_done_then_leaves_metrics_configuration_and_checkpoints(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=2), quiet())
    out = config.out
    events = read_events(out)
    assert [event["epoch"] for event in events if event["kind"] == "epoch"] == [1, 2]
    assert all(0 <= event["AP"] <= 1 for event in events if event["kind"] == "epoch")
    train = [event for event in events if event["kind"] == "train"]
    assert train[-1]["step"] == 4
    assert train[-1]["loss"] == pytest.approx(
        2 * train[-1]["loss_classes"] + 5 * train[-1]["loss_l1"] + 2 * train[-1]["loss_giou"], rel=1e-4
    )
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {path.name for path in (out / "last").iterdir()} == {"model.safetensors", "checkpoint.json", "resume.ckpt"}
    assert {path.name for path in (out / "best").iterdir()} == {"model.safetensors", "checkpoint.json"}
    described = json.loads((out / "best" / "checkpoint.json").read_text())
    assert described["classes"] == {"names": list("0123456789"), "ids": list(range(10))}
    assert described["versions"].keys() >= {"oddetr", "torch", "timm"}
    assert TrainConfig.from_json(json.loads((out / "config.json").read_text())).epochs == 2


def test_run_when_validated_every_second_epoch_then_validates_the_last_too(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=3, validate_every=2), quiet())
    scored = [event["epoch"] for event in read_events(config.out) if event["kind"] == "epoch" and "AP" in event]
    assert scored == [2, 3]


def test_run_when_interrupted_then_says_how_to_go_on(config: TrainConfig) -> None:
    class Interrupt(StopAfter):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.current_epoch == self.epochs:
                raise KeyboardInterrupt

    console = quiet()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run(dataclasses.replace(config, trainer=config.trainer | {"callbacks": [Interrupt(1)]}), console)
    signal.signal(signal.SIGINT, before)
    assert f"Stopped in epoch 2/4. Go on after its last finished epoch: oddetr train --out {config.out} --resume" in (
        console.file.getvalue()
    )


def test_run_when_it_shows_progress_then_says_what_matters(config: TrainConfig) -> None:
    console = quiet()
    run(dataclasses.replace(config, epochs=1), console)
    text = console.file.getvalue()
    for part in (
        "classes: 10",
        "train 8, val 4",
        "epoch 1/1",
        "loss",
        "AP 0.",
        "images/s",
        "waiting for data",
        "left 0:00",
    ):
        assert part in text, part


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("variant", ["plain", "refine", "two_stage"])
def test_run_when_of_any_variant_and_precision_then_trains_with_finite_losses(
    tiny: dict, precision: str, variant: str
) -> None:
    tiny["detector"] |= {"variant": variant}
    run(TrainConfig(**tiny | {"epochs": 1, "precision": precision}), quiet())
    losses = [event["loss"] for event in read_events(tiny["out"]) if event["kind"] == "train"]
    assert all(0 < loss < 100 for loss in losses)


def test_run_when_there_is_one_already_then_refuses_to_overwrite_it(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1), quiet())
    with pytest.raises(FileExistsError, match="--resume"):
        run(config, quiet())


def test_resume_when_there_is_nothing_then_begins(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1, resume=True), quiet())
    assert (config.out / "last").is_dir()


def test_resume_when_arguments_contradict_the_run_then_says_which(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1), quiet())
    with pytest.raises(ValueError, match="seed is 0, not 5"):
        run(TrainConfig(out=config.out, resume=True, seed=5), quiet())


def test_run_when_data_has_errors_then_stops_before_training_and_says_where(tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    write_coco(DigitScenes("train", 4), folder, "train")
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, -3, 4]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="oddetr check"):
        run(TrainConfig(**tiny | {"data": str(folder)}), quiet())
    assert not (tiny["out"] / "last").exists()


def test_run_when_fp16_is_asked_for_on_a_cpu_then_refuses(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(dataclasses.replace(config, precision="fp16"), quiet())


def test_train_when_called_as_a_function_then_takes_the_fields(tiny: dict) -> None:
    assert oddetr.train(**tiny | {"epochs": 1}) == tiny["out"]
    with pytest.raises(TypeError, match="epoch"):
        oddetr.train(epoch=3)


def test_tensorboard_when_asked_for_then_has_the_losses(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    run(dataclasses.replace(config, epochs=1, tensorboard=True), quiet())
    assert list((config.out / "tensorboard").glob("events*"))
