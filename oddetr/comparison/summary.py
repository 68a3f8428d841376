"""Means and deviations over seeds, and differences to the reference arm seed by seed."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from oddetr.comparison.arms import label_of
from oddetr.comparison.records import RunResult


@dataclass(frozen=True)
class Spread:
    """Values of several seeds, without undefined ones."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Drop None and NaN."""
        return cls(tuple(float(value) for value in values if value is not None and not math.isnan(value)))

    @property
    def mean(self) -> float | None:
        """None without values."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, decimals: int = 3, sign: str = "") -> str:
        """`mean ± deviation`, with `-` for what is not defined; `sign` as in a format, `+` say."""
        if self.mean is None:
            return "-"
        deviation = "-" if self.deviation is None else f"{self.deviation:.{decimals}f}"
        return f"{self.mean:{sign}.{decimals}f} ± {deviation}"


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, the value of one run, and the decimals shown."""

    title: str
    value: Callable[[RunResult], float | None]
    decimals: int = 3


COLUMNS = {
    "teacher_ap": Column("AP teacher", lambda run: run.scores["teacher"]["AP"]),
    "student_ap": Column("AP student", lambda run: run.scores["student"]["AP"]),
    "teacher_ap50": Column("AP50 teacher", lambda run: run.scores["teacher"]["AP50"]),
    "without_duplicates": Column("without duplicates", lambda run: run.scores["teacher"].get("AP_without_duplicates")),
    "student_instability": Column("instability student", lambda run: run.mean("student", "instability")),
    "teacher_instability": Column("instability teacher", lambda run: run.mean("teacher", "instability")),
    "minutes": Column("training minutes", lambda run: run.minutes, 1),
    "carried": Column("carried", lambda run: run.carried),
}
"""By their names in results.json. AP is that of the last checkpoint; instability is the mean over the run; runs of
oddetr 0.1 have no AP without duplicates."""


@dataclass(frozen=True)
class ArmSummary:
    """An arm over its finished seeds; scores in [0, 1].

    Attributes:
        seeds: the finished ones.
        spreads: of each of `COLUMNS`.
        differences: the teacher's AP minus that of the reference arm, by seed; empty for the reference arm.
    """

    arm: str
    seeds: tuple[int, ...]
    spreads: dict[str, Spread]
    differences: dict[int, float]

    @property
    def difference(self) -> Spread:
        """The differences of all seeds."""
        return Spread(tuple(self.differences.values()))

    @property
    def label(self) -> str:
        """The arm's name in tables."""
        return label_of(self.arm)

    @property
    def above(self) -> int:
        """Number of seeds in which the arm is above the reference."""
        return sum(difference > 0 for difference in self.differences.values())


def summarise(arm: str, results: Sequence[RunResult], reference: Sequence[RunResult]) -> ArmSummary:
    """Summarise an arm's runs and compare them with those of the reference arm.

    Args:
        arm: its name.
        results: the arm's runs, at most one per seed.
        reference: the reference arm's runs; empty for the reference arm itself.
    """
    ours, others = ({run.seed: run.scores["teacher"]["AP"] for run in runs} for runs in (results, reference))
    pairs = {seed: (ours[seed], others[seed]) for seed in ours if seed in others}
    return ArmSummary(
        arm=arm,
        seeds=tuple(ours),
        spreads={name: Spread.of(column.value(run) for run in results) for name, column in COLUMNS.items()},
        differences={seed: own - other for seed, (own, other) in pairs.items() if None not in (own, other)},
    )
