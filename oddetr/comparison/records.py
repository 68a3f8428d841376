"""The files in a run's folder: the job, and the result once it has finished."""

import dataclasses
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oddetr.common.durable import write_file, writing
from oddetr.common.untrusted import read_json
from oddetr.training.config import TrainConfig
from oddetr.training.old_configs import GoneFieldError
from oddetr.training.safety.resume import differences, has_checkpoint

JOB, RESULT, LOG = "job.json", "result.json", "log.txt"


@dataclass(frozen=True)
class Job:
    """One run: an arm with one seed.

    Attributes:
        split: the split that the trained detector is evaluated on.
        at_once: number of concurrent runs, including this one.
        config: the run's configuration; `out` is its folder.
    """

    arm: str
    seed: int
    split: str
    at_once: int
    threads: int
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """The run's folder."""
        assert self.config.out is not None
        return self.config.out

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return f"{self.arm} seed {self.seed}"

    def write(self) -> Path:
        """Write the file that `oddetr.comparison.job` reads, and return its path."""
        write_json(self.folder / JOB, {**vars(self), "config": self.config.to_json()})
        return self.folder / JOB

    @classmethod
    def read(cls, file: Path) -> "Job":
        """Read the file that `write` made; a ValueError says that it is damaged."""
        with _reading(file) as content:
            config = TrainConfig.from_plain(content.pop("config"))
            return cls(**content, config=config)

    def result(self) -> "RunResult | None":
        """The run's result; None if it has not finished or was evaluated on another split.

        Raises:
            ValueError: the folder holds a run of another configuration (the fields are named), or a damaged file.
        """
        file = self.folder / RESULT
        if (file.exists() or has_checkpoint(self.folder)) and (self.folder / JOB).is_file():
            with _reading(self.folder / JOB) as content:
                different = differences(dict(content["config"]), self.config.to_json())
            if different:
                raise ValueError(
                    f"The run in {self.folder} has another configuration: {'; '.join(different)}. Give another folder "
                    "by --out, undo the change, or remove that run's folder to train it again."
                )
        if not file.is_file():
            return None
        with _reading(file) as content:
            result = RunResult(**content)
        return result if result.split == self.split else None


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        split: the split of `scores`.
        epochs: the events of kind `epoch` in the run's `metrics.jsonl`.
        scores: of the last checkpoint, under `student` and `teacher`, named as in `Metrics.to_json`; in [0, 1].
        machine: hardware, load and versions, in words.
    """

    arm: str
    seed: int
    split: str
    epochs: list[dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    machine: str

    def write(self, folder: Path) -> None:
        """Write it atomically."""
        write_json(folder / RESULT, dataclasses.asdict(self))

    @property
    def minutes(self) -> float:
        """Minutes of training, without validation."""
        return self.epochs[-1]["training_seconds"] / 60

    def times(self) -> dict[int, float]:
        """Minutes of training by epoch."""
        return {event["epoch"]: event["training_seconds"] / 60 for event in self.epochs}

    def curve(self, model: str, score: str) -> dict[int, float]:
        """A score of `student` or `teacher` by epoch, of the last decoder layer if there is one for each.

        Epochs without it are left out.
        """
        values = {event["epoch"]: (event.get(model) or {}).get(score) for event in self.epochs}
        values = {epoch: [None, *value][-1] if isinstance(value, list) else value for epoch, value in values.items()}
        return {epoch: value for epoch, value in values.items() if value is not None}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, and make its folder."""
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(content, indent=1))


@contextmanager
def _reading(file: Path) -> Generator[dict[str, Any]]:
    """Read a JSON file; errors inside the context are reported as a damaged file, but for fields of oddetr 0.1."""
    try:
        yield read_json(file)
    except GoneFieldError as error:
        raise ValueError(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}). Remove it, and give the same command again: the run "
            "goes on from its checkpoints."
        ) from error
