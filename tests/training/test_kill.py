"""Trainings that are killed are resumed, and end in the weights of one that was not.

`tests/common/test_durable.py` cuts a save off before each of its operations, within one process.
"""

import dataclasses
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.distillation.config import DistillationConfig
from oddetr.training.config import OptimizerConfig
from tests.training.helpers import assert_same_weights, events_without_times
from tests.training.killing import ended, start, train, wait


class Run:
    """A run that may be killed and resumed; its journal has the steps and saves of each of its lives."""

    def __init__(self, tiny: dict[str, Any], out: Path, **changes: Any) -> None:
        """Of four steps an epoch, saved after each; the rate is high, and the teacher averages."""
        parts = {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
        plain = {name: dataclasses.asdict(value) for name, value in parts.items()}
        self.arguments = tiny | plain | {"batch_size": 2, "epochs": 2, "image_size": 64, "out": str(out)} | changes
        self.out, self.journal = out, out.with_suffix(".txt")

    def start(self, slowly: float = 0.0) -> BaseProcess:
        """Start the run in a process of its own, or resume it as the printed command does."""
        arguments = self.arguments
        if (self.out / "config.json").exists():
            arguments = {"out": str(self.out), "trainer": arguments["trainer"], "resume": True}
        with self.journal.open("a") as stream:
            stream.write("life\n")
        return start(train, arguments, self.journal, slowly)

    def kill(self, process: BaseProcess) -> bool:
        """Whether it was killed while it saved."""
        assert process.exitcode is None, "the run was done before; make it longer"
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        return self.lines[-1].startswith("saving")

    @property
    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def count(self, word: str) -> int:
        return sum(line.split()[0] == word for line in self.lines)

    def check(self, whole: Path) -> None:
        """Each life started after the last save of the one before; in the end weights and scores are those of `whole`,
        which was not killed."""
        saved, first = 0, False
        for word, *rest in map(str.split, self.lines):
            assert word != "step" or not first or int(rest[0]) > saved, self.lines
            first = word == "life" or (first and word != "step")
            saved = int(rest[0]) if word == "saved" else saved
        assert_same_weights(whole, self.out, "last", "best")
        scores = ([event for event in events_without_times(each) if "teacher" in event] for each in (whole, self.out))
        before, after = ([(each["step"], each["teacher"], each["student"]) for each in events] for events in scores)
        assert before == after


def test_a_run_killed_while_it_saves_resumes_to_the_same_weights(tiny: dict, tmp_path: Path) -> None:
    """In its fourth save, at the epoch's end, which writes best and last."""
    whole, run = Run(tiny, tmp_path / "whole"), Run(tiny, tmp_path / "run")
    assert ended(whole.start()) == 0
    process = run.start(slowly=0.3)
    wait(lambda: run.count("saving") == 4)
    assert run.kill(process)
    assert ended(run.start()) == 0
    run.check(whole.out)


@pytest.mark.slow
def test_a_kill_at_any_of_40_random_moments_loses_nothing(tiny: dict, tmp_path: Path) -> None:
    """Each time one to six steps further, and then at any moment of the next; every second time the disk is slow."""
    long, run = (Run(tiny, tmp_path / name, epochs=60, validate_every=10) for name in ("long", "killed"))
    assert ended(long.start()) == 0
    dice, within = random.Random(7), 0
    for death in range(40):
        before = run.count("step") if death else 0
        process, steps = run.start(slowly=0.05 * (death % 2)), dice.randint(1, 6)
        wait(lambda least=before + steps: run.count("step") >= least)
        time.sleep(dice.uniform(0.0, 0.3))
        within += run.kill(process)
    steps = torch.load(run.out / "last" / "resume.ckpt", weights_only=True)["global_step"]
    assert ended(run.start()) == 0
    run.check(long.out)
    print(f"killed 40 times, {within} of them while it saved; after the last at step {steps} of 240")
    assert 5 <= within < 40
    assert steps > 10
