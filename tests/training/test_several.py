"""Trainings that two processes share, each with half of the images of a step: all in one pair of processes."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import oddetr
from oddetr.common.nested import flat
from oddetr.distillation.config import DistillationConfig
from oddetr.training import module
from oddetr.training import saving as recorder
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.processes import share_from_first
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.training.helpers import WEIGHTS, assert_same_weights, killed_at, quiet
from tests.training.several import TRAIN, VAL, Apart, Witness, arguments_of, in_two_processes, trained, write_data

ALIKE: dict[str, dict[str, Any]] = {
    "refine": {},
    "dino_accumulated": {
        "model": "dino_tiny",
        "detector": {"denoising": 12},
        "accumulate": 2,
        "gradient_checkpointing": True,
    },
}
"""Distilled runs that must end alike in one process and in two."""
STOPPED_AT = 9
"""Steps: in the middle of an epoch of two."""


def learning(data: Path, out: Path) -> dict[str, Any]:
    """A run that learns enough for scores above 0: with dropout, all augmentation, and batch norms that learn."""
    return arguments_of(data, out, detector={"dropout": 0.1, "pretrained": False, "width": 32}) | {
        "data": str(data / "learning"),
        "epochs": 9,
        "batch_size": 4,
        "image_size": 64,
        "validate_every": 2,
        "backbone_weights": None,
        "optimizer": OptimizerConfig(learning_rate=5e-3, backbone_factor=1.0, clip=1.0),
        "distillation": DistillationConfig(horizon=8.0),
    }


class Messages(TorchDispatchMode):
    """Counts what is sent from one process to all."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.c10d.broadcast_.default
        return func(*args, **kwargs or {})


def both(rank: int, folder: Path, data: Path) -> None:
    """What each of the two processes does."""
    statistics = [torch.full((size,), float(rank)) for size in range(20)] + [torch.tensor(rank)] * 10
    with Messages() as messages:
        share_from_first(statistics)
        share_from_first([])
    torch.save({"messages": messages.count, "statistics": statistics}, folder / f"statistics{rank}.pt")
    two = {"accelerator": "cpu", "devices": 2}
    for name, changes in ALIKE.items():
        arguments = arguments_of(data, folder / name, **changes) | {"batch_size": 2, "trainer": two}
        keep(trained(arguments, Apart()), folder / f"{name}{rank}.pt")
    module.AGREE_EVERY = recorder.AGREE_EVERY = 1  # pyright: ignore[reportPrivateImportUsage]
    keep(trained(learning(data, folder / "whole") | {"trainer": two}), folder / f"whole{rank}.pt")
    recorder.SAVE_EVERY = 0.0
    with pytest.raises(ConnectionAbortedError):
        trained(learning(data, folder / "resumed") | {"trainer": two}, killed_at(STOPPED_AT))
    run(TrainConfig(out=folder / "resumed", resume=True, trainer=two), quiet())
    strange = arguments_of(data, folder / f"strange{rank}", seed=rank) | {"trainer": two}
    with pytest.raises(ValueError, match="process 1 would not train the same: seed: 0 and 1"):
        run(TrainConfig(**strange), quiet())


def keep(seen: Witness, file: Path) -> None:
    torch.save({name: getattr(seen, name) for name in ("seen", "validated", "gradients", "teachers")}, file)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def pair(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of two processes are, and what each saw."""
    folder = tmp_path_factory.mktemp("pair")
    in_two_processes(both, folder, data)
    return folder


def seen_by(pair: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(pair / f"{name}{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_have_the_gradients_and_weights_of_one(name: str, data: Path, pair: Path, tmp_path: Path) -> None:
    """The weights to 1e-5, and the gradients, relative to the largest, in most steps, too: where rounding, which is the
    machine's, takes a ReLU's input, a sampled place or two boxes' edges past a kink, one query's gradient jumps."""
    one = trained(arguments_of(data, tmp_path, **ALIKE[name]) | {"batch_size": 4}, Apart())
    parts = seen_by(pair, name)
    assert len(one.gradients) == len(parts[0]["gradients"]) == len(parts[1]["gradients"]) > 3
    worst: list[float] = []
    for expected, *found in zip(one.gradients, *(part["gradients"] for part in parts), strict=True):
        largest = max(1.0, *(value.abs().max().item() for value in expected.values()))
        assert all(part.keys() == expected.keys() for part in found)
        differences = [(part[key] - value).abs().max().item() for part in found for key, value in expected.items()]
        worst.append(max(differences) / largest)
    assert max(worst) < 1e-3
    assert median(worst) < 1e-5
    for file in WEIGHTS:
        expected, found = load_file(tmp_path / "last" / file), load_file(pair / name / "last" / file)
        assert expected.keys() == found.keys()
        difference = max((value - found[key]).abs().max().item() for key, value in expected.items())
        assert difference < 1e-5


def test_two_processes_met_steps_without_objects_and_short_batches(pair: Path) -> None:
    """Otherwise the comparison with one process would show less than it seems to."""
    first, second = (part["seen"] for part in seen_by(pair, "refine"))
    objects = [(one, other) for (_, one), (_, other) in zip(first, second, strict=True)]
    assert (0, 0) in objects
    assert any(one == 0 < other for one, other in objects)
    assert any(len(one) == 2 and len(other) == 1 for (one, _), (other, _) in zip(first, second, strict=True))
    steps = len(first) // 3
    for epoch in range(3):
        parts = [part[epoch * steps : (epoch + 1) * steps] for part in (first, second)]
        assert sorted(image for part in parts for ids, _ in part for image in ids) == [*range(1, TRAIN + 1)]


def test_all_statistics_of_the_first_process_are_sent_in_one_message_for_each_type(pair: Path) -> None:
    for found in seen_by(pair, "statistics"):
        assert found["messages"] == 2
        assert not any(each.any() for each in found["statistics"])


@pytest.mark.parametrize("name", [*ALIKE, "whole"])
def test_teachers_of_two_processes_are_equal_to_the_bit_after_every_step(name: str, pair: Path) -> None:
    first, second = (part["teachers"] for part in seen_by(pair, name))
    assert first == second
    assert len({*first}) > 3


def test_two_processes_validate_each_image_once_with_the_scores_of_one(pair: Path) -> None:
    """An odd number of them."""
    first, second = (part["validated"] for part in seen_by(pair, "whole"))
    validations = len(first) // (VAL - VAL // 2)
    assert validations == 5
    assert len(second) == validations * (VAL // 2)
    assert sorted(first + second) == sorted([*range(1, VAL + 1)] * validations)
    last = read_events(pair / "whole")[-1]
    for weights in ("teacher", "student"):
        found = oddetr.evaluate(pair / "whole" / "last", split="val", weights=weights).to_json()
        found.pop("AP_without_duplicates")  # which only evaluation computes
        assert flat(found) == pytest.approx(flat({name: last[weights][name] for name in found}), abs=1e-6)
        assert found["AP"] > 0


def test_two_processes_resume_to_the_same_weights(pair: Path) -> None:
    """After a checkpoint within an epoch; with batch norms that learn, dropout and all augmentation."""
    assert_same_weights(pair / "whole", pair / "resumed", "last", "best")
    whole, resumed = (
        [event["teacher"] for event in read_events(pair / name) if "teacher" in event] for name in ("whole", "resumed")
    )
    assert whole == resumed
