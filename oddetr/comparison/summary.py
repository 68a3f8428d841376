"""Means and spreads over seeds, and differences seed by seed."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oddetr.comparison.arms import label_of
from oddetr.comparison.records import RunResult


@dataclass(frozen=True)
class Spread:
    """Values of several seeds; what is not defined is left out."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Without None and NaN."""
        return cls(tuple(float(value) for value in values if value is not None and not math.isnan(value)))

    @property
    def mean(self) -> float | None:
        """None without values."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation (n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, decimals: int = 3, sign: str = "") -> str:
        """`mean ± standard deviation`; `-` stands for what is not defined. `sign` is that of a format, `+` say."""
        if self.mean is None:
            return "-"
        deviation = "-" if self.deviation is None else f"{self.deviation:.{decimals}f}"
        return f"{self.mean:{sign}.{decimals}f} ± {deviation}"


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its finished seeds; scores in 0-1.

    Attributes:
        seeds: that are finished.
        teacher_ap, student_ap, teacher_ap50: of the last checkpoint.
        without_duplicates: the teacher's AP after suppression of duplicates; not of runs of oddetr 0.1.
        teacher_instability, student_instability: normalised, last layer, between validations, mean over the run.
        carried: share of objects whose teacher's query the student has too, mean over the run's epochs that tell it.
        minutes: of training, without validation.
        differences: by seed, of the teacher's AP to the reference arm's; empty for the reference arm itself.
    """

    arm: str
    seeds: tuple[int, ...]
    teacher_ap: Spread
    student_ap: Spread
    teacher_ap50: Spread
    without_duplicates: Spread
    teacher_instability: Spread
    student_instability: Spread
    carried: Spread
    minutes: Spread
    differences: dict[int, float]

    @property
    def difference(self) -> Spread:
        """To the reference arm, seed by seed."""
        return Spread(tuple(self.differences.values()))

    @property
    def label(self) -> str:
        """What people call the arm."""
        return label_of(self.arm)

    @property
    def above(self) -> int:
        """In how many seeds the arm is above the reference."""
        return sum(difference > 0 for difference in self.differences.values())


def summarise(arm: str, results: Sequence[RunResult], reference: Sequence[RunResult]) -> ArmSummary:
    """The summary of an arm's runs, and their differences to the reference arm's runs.

    Args:
        results: the arm's, at most one of a seed.
        reference: the reference arm's; empty for the reference arm itself.
    """
    ours, others = ({run.seed: run.scores["teacher"]["AP"] for run in runs} for runs in (results, reference))
    pairs = {seed: (ours[seed], others[seed]) for seed in ours if seed in others}
    return ArmSummary(
        arm=arm,
        seeds=tuple(run.seed for run in results),
        teacher_ap=Spread.of(run.scores["teacher"]["AP"] for run in results),
        student_ap=Spread.of(run.scores["student"]["AP"] for run in results),
        teacher_ap50=Spread.of(run.scores["teacher"]["AP50"] for run in results),
        without_duplicates=Spread.of(run.scores["teacher"].get("AP_without_duplicates") for run in results),
        teacher_instability=Spread.of(_mean_instability(run, "teacher") for run in results),
        student_instability=Spread.of(_mean_instability(run, "student") for run in results),
        carried=Spread.of(_mean_carried(run) for run in results),
        minutes=Spread.of(run.minutes for run in results),
        differences={seed: own - other for seed, (own, other) in pairs.items() if None not in (own, other)},
    )


def _mean_instability(run: RunResult, model: str) -> float | None:
    return Spread.of(run.curve(model, "instability").values()).mean


def _mean_carried(run: RunResult) -> float | None:
    return Spread.of(event.get("matching_carried") for event in run.epochs).mean
