"""Trainings that are killed are resumed, and end in the weights of one that was not."""

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
ALIVE = Plan()


class Run:
    """A run that may be killed and resumed; its journal has the steps and saves of each of its lives."""

    def __init__(self, arguments: dict[str, Any], out: Path) -> None:
        self.arguments, self.out, self.journal = arguments | {"out": str(out)}, out, out.with_suffix(".txt")

    def start(self, plan: Plan = ALIVE) -> Any:
        """Start the run in a process of its own, or resume it as the printed command does."""
        arguments = self.arguments
        if (self.out / "config.json").exists():
            arguments = {"out": str(self.out), "trainer": arguments["trainer"], "resume": True}
        with self.journal.open("a") as stream:
            stream.write("life\n")
        return start(train, arguments, self.journal, plan)

    @property
    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    @property
    def steps(self) -> int:
        """How many were done in all of its lives."""
        return sum(line.startswith("step ") for line in self.lines)

    @property
    def within_save(self) -> bool:
        """Whether the last life ended while it saved."""
        return self.lines[-1].startswith("saving")


@pytest.fixture
def whole(tiny: dict, tmp_path: Path) -> Run:
    """A run that was not killed, of four steps an epoch, saved after each; the rate is high, and the teacher averages,
    so that it is not the student."""
    changes = {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    plain = {name: dataclasses.asdict(value) for name, value in changes.items()}
    run = Run(tiny | plain | {"batch_size": 2, "epochs": 2, "image_size": 64}, tmp_path / "whole")
    assert ended(run.start()) == 0
    student, teacher = (load_file(run.out / "last" / file) for file in WEIGHTS)
    assert not all(value.equal(teacher[name]) for name, value in student.items())
    return run


def operations(whole: Run, save: int) -> list[str]:
    """What a save, counted from 1, does to files."""
    return [line.split()[2:] for line in whole.lines if line.startswith("saved")][save - 1]


def check(run: Run, whole: Run) -> None:
    """Each life starts after the last save of the one before; in the end weights, to the bit, and scores are those of
    the run that was not killed."""
    saved, first = 0, False
    for word, *rest in map(str.split, run.lines):
        if word == "life":
            first = True
        elif word == "step":
            assert not first or int(rest[0]) > saved, run.lines
            first = False
        elif word == "saved":
            saved = int(rest[0])
    for which in ("last", "best"):
        for file in WEIGHTS:
            expected, found = load_file(whole.out / which / file), load_file(run.out / which / file)
            assert expected.keys() == found.keys()
            different = [name for name, value in expected.items() if not value.equal(found[name])]
            assert not different, (which, file, different)
    scores = [
        [(event["step"], event["teacher"], event["student"]) for event in read_events(each.out) if "teacher" in event]
        for each in (whole, run)
    ]
    assert scores[0] == scores[1]


def die_and_resume(whole: Run, plan: Plan) -> None:
    run = Run(whole.arguments, whole.out.with_name(f"run{plan.save}-{plan.operation}-{plan.torn}"))
    assert ended(run.start(plan)) == -signal.SIGKILL, plan
    assert run.within_save
    assert ended(run.start()) == 0, plan
    check(run, whole)


def test_a_run_killed_while_it_saves_resumes_to_the_same_weights(whole: Run) -> None:
    """The fourth save, at the epoch's end, writes best and last: once its state is torn, once it ends between the two
    renames of last."""
    numbered = [*enumerate(operations(whole, 4), start=1)]
    *_, sync = (number for number, name in numbered if name == "sync-file")
    *_, rename = (number for number, name in numbered if name == "rename")
    die_and_resume(whole, Plan(4, sync, torn=True))
    die_and_resume(whole, Plan(4, rename))


@pytest.mark.slow
@pytest.mark.parametrize("save", [1, 3, 4], ids=["the first save", "a save within an epoch", "the save of an epoch"])
def test_a_kill_before_any_file_operation_of_a_save_loses_nothing(whole: Run, save: int) -> None:
    """Also with half a file at each sync of one."""
    numbered = [*enumerate(operations(whole, save), start=1)]
    deaths = [Plan(save, number) for number, _ in numbered]
    deaths += [Plan(save, number, torn=True) for number, name in numbered if name == "sync-file"]
    for plan in deaths:
        die_and_resume(whole, plan)
    print(f"save {save}: killed and resumed {len(deaths)} times")


@pytest.mark.slow
def test_a_kill_at_any_of_40_random_moments_loses_nothing(whole: Run) -> None:
    """Each time one to six steps further, and then at any moment of the next; every second time the disk is slow."""
    arguments = whole.arguments | {"epochs": 60, "validate_every": 10}
    long, run = (Run(arguments, whole.out.with_name(name)) for name in ("long", "killed"))
    assert ended(long.start()) == 0
    dice, within = random.Random(7), 0
    for death in range(40):
        before = run.steps if death else 0
        process, steps = run.start(Plan(slowly=0.05 * (death % 2))), dice.randint(1, 6)
        limit = time.monotonic() + 120
        while run.steps < before + steps and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.3))
        assert process.exitcode is None, f"death {death}: the run was done before; make it longer"
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        within += run.within_save
    steps = torch.load(run.out / "last" / "resume.ckpt", weights_only=True)["global_step"]
    assert ended(run.start()) == 0
    check(run, long)
    print(f"killed 40 times, {within} of them while it saved; after the last at step {steps} of 240")
    assert 5 <= within < 40
    assert steps > 10
