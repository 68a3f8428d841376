"""Trainings that are killed go on, and end in the weights of one that was not."""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oddetr.distillation.config import DistillationConfig
from oddetr.training.config import OptimizerConfig
from oddetr.training.records.log import read_events
from tests.training.killing import Plan, ended, start, train

WEIGHTS = ("student.safetensors", "model.safetensors")


@pytest.fixture
def arguments(tiny: dict) -> dict:
    """Four steps an epoch, saved after each; the rate is high, and the teacher looks back: it is not the student."""
    changes = {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    plain = {name: dataclasses.asdict(value) for name, value in changes.items()}
    return tiny | plain | {"batch_size": 2, "epochs": 2, "image_size": 64}


class Lives:
    """A run, killed again and again, and one that is not."""

    def __init__(self, arguments: dict[str, Any], folder: Path) -> None:
        self.arguments, self.folder, self.number = arguments, folder, 0
        self.whole = folder / "whole"
        assert ended(start(train, arguments | {"out": str(self.whole)}, folder / "whole.txt", Plan())) == 0
        self.saves = [line.split()[2:] for line in self._journal("whole") if line.startswith("saved")]

    def new(self) -> None:
        """The next run is another one."""
        self.number += 1

    @property
    def name(self) -> str:
        return f"run{self.number}"

    @property
    def out(self) -> Path:
        return self.folder / self.name

    def begin(self, plan: Plan) -> Any:
        """Begins the run, or goes on with it as the printed command does."""
        begun = (self.out / "config.json").exists()
        said = {"trainer": self.arguments["trainer"]} if begun else self.arguments
        arguments = said | {"out": str(self.out), "resume": begun}
        with (self.folder / f"{self.name}.txt").open("a") as stream:
            stream.write("life\n")
        return start(train, arguments, self.folder / f"{self.name}.txt", plan)

    def check_losses(self) -> None:
        """Each life after the first began where the one before had saved, or after."""
        saved, first = 0, True
        for line in self._journal(self.name):
            word, *rest = line.split()
            if word == "life":
                first = True
            elif word == "step" and first:
                assert int(rest[0]) > saved, self._journal(self.name)
                first = False
            elif word == "saved":
                saved = int(rest[0])

    def check_end(self) -> None:
        """Weights, to the bit, and scores are those of the run that was not killed."""
        for which in ("last", "best"):
            for file in WEIGHTS:
                expected, found = load_file(self.whole / which / file), load_file(self.out / which / file)
                assert expected.keys() == found.keys()
                different = [name for name, value in expected.items() if not value.equal(found[name])]
                assert not different, (which, file, different)
        scores = [
            [(event["step"], event["teacher"], event["student"]) for event in read_events(out) if "teacher" in event]
            for out in (self.whole, self.out)
        ]
        assert scores[0] == scores[1]

    def _journal(self, name: str) -> list[str]:
        return (self.folder / f"{name}.txt").read_text().splitlines()

    @property
    def steps(self) -> int:
        """How many were done in all of its lives."""
        journal = self.folder / f"{self.name}.txt"
        return journal.read_text().count("step ") if journal.exists() else 0

    @property
    def within_save(self) -> bool:
        """Whether the last life ended while it saved."""
        return self._journal(self.name)[-1].startswith("saving")


def plans(operations: list[str], save: int) -> list[Plan]:
    """A death before every operation of a save, and with half a file at each sync of one."""
    before = [Plan(save, number) for number in range(1, len(operations) + 1)]
    return before + [Plan(save, n, torn=True) for n, name in enumerate(operations, start=1) if name == "sync-file"]


def die_and_go_on(lives: Lives, plan: Plan) -> None:
    lives.new()
    assert ended(lives.begin(plan)) == -signal.SIGKILL, plan
    assert lives.within_save
    assert ended(lives.begin(Plan())) == 0, plan
    lives.check_losses()
    lives.check_end()


def test_run_when_killed_while_it_saves_then_goes_on_and_ends_in_the_same_weights(
    arguments: dict, tmp_path: Path
) -> None:
    """The fourth save, at the epoch's end, writes best and last: once its state is torn, once it ends between the two
    renames of last."""
    lives = Lives(arguments, tmp_path)
    assert not all(
        value.equal(load_file(lives.whole / "last" / WEIGHTS[0])[name])
        for name, value in load_file(lives.whole / "last" / WEIGHTS[1]).items()
    )
    operations = lives.saves[3]
    renames = [number for number, name in enumerate(operations, start=1) if name == "rename"]
    syncs = [number for number, name in enumerate(operations, start=1) if name == "sync-file"]
    for plan in (Plan(4, syncs[-1], torn=True), Plan(4, renames[-1])):
        die_and_go_on(lives, plan)


@pytest.mark.slow
@pytest.mark.parametrize("save", [1, 3, 4], ids=["the first save", "a save within an epoch", "the save of an epoch"])
def test_a_kill_before_any_file_operation_of_a_save_loses_nothing(arguments: dict, tmp_path: Path, save: int) -> None:
    lives = Lives(arguments, tmp_path)
    deaths = plans(lives.saves[save - 1], save)
    for plan in deaths:
        die_and_go_on(lives, plan)
    print(f"save {save}: killed and resumed {len(deaths)} times")


@pytest.mark.slow
def test_a_kill_at_any_of_40_random_moments_loses_nothing(arguments: dict, tmp_path: Path) -> None:
    lives = Lives(arguments | {"epochs": 60, "validate_every": 10}, tmp_path)
    within = kill_at_random(lives, 40)
    steps = torch.load(lives.out / "last" / "resume.ckpt", weights_only=True)["global_step"]
    assert ended(lives.begin(Plan())) == 0
    lives.check_losses()
    lives.check_end()
    print(f"killed 40 times, {within} of them while it saved; after the last at step {steps} of 240")
    assert 5 <= within < 40
    assert steps > 10


def kill_at_random(lives: Lives, deaths: int) -> int:
    """Kills one run again and again, each time one to six steps further and then at any moment of the next; in every
    second life the disk is slow. Returns how many died while they saved."""
    dice, within = random.Random(7), 0
    lives.new()
    for death in range(deaths):
        before = lives.steps
        process, steps = lives.begin(Plan(slowly=0.05 * (death % 2))), dice.randint(1, 6)
        limit = time.monotonic() + 120
        while lives.steps < before + steps and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.3))
        assert process.exitcode is None, f"death {death}: the run was done before; make it longer"
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        within += lives.within_save
    return within
