"""Means and deviations over seeds, and differences to the reference arm seed by seed, as results.json holds them."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oddetr.comparison.records import RunResult


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, the value of one run, and the decimals shown."""

    title: str
    value: Callable[[RunResult], float | None]
    decimals: int = 3


def _instability(run: RunResult, model: str) -> float | None:
    return spread(run.curve(model, "normalised_instability").values())["mean"]


COLUMNS = {
    "teacher_ap": Column("AP teacher", lambda run: run.scores["teacher"]["AP"]),
    "student_ap": Column("AP student", lambda run: run.scores["student"]["AP"]),
    "teacher_ap50": Column("AP50 teacher", lambda run: run.scores["teacher"]["AP50"]),
    "without_duplicates": Column("without duplicates", lambda run: run.scores["teacher"].get("AP_without_duplicates")),
    "student_instability": Column("instability student", lambda run: _instability(run, "student")),
    "teacher_instability": Column("instability teacher", lambda run: _instability(run, "teacher")),
    "minutes": Column("training minutes", lambda run: run.minutes, 1),
    "carried": Column("carried", lambda run: spread(event.get("matching_carried") for event in run.epochs)["mean"]),
}
"""By their names in results.json. AP is that of the last checkpoint; instability and `carried`, the share of objects
whose query of the teacher the student has, are means over the run; runs of oddetr 0.1 have no AP without duplicates."""


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """The mean, the sample deviation and the number `n` of the values, without None and NaN.

    `mean` is None without values, and `deviation` with fewer than two.
    """
    kept = [float(value) for value in values if value is not None and not math.isnan(value)]
    deviation = statistics.stdev(kept) if len(kept) > 1 else None
    mean = statistics.fmean(kept) if kept else None
    return {"mean": mean, "deviation": deviation, "n": len(kept), "values": kept}


def spread_text(found: dict[str, Any], decimals: int = 3, sign: str = "") -> str:
    """`mean ± deviation`, with `-` for what is not defined; `sign` as in a format, `+` say."""
    if found["mean"] is None:
        return "-"
    deviation = "-" if found["deviation"] is None else f"{found['deviation']:.{decimals}f}"
    return f"{found['mean']:{sign}.{decimals}f} ± {deviation}"


def summarise(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> dict[str, Any]:
    """Summarise an arm's runs: `summary`, the spread of each column, and `difference`, in the teacher's AP.

    The difference is to the run of the reference arm (none for that arm itself) with the same seed: its spread,
    `by_seed`, and `above`, the number of seeds in which it is positive.
    """
    ours, others = ({run.seed: run.scores["teacher"]["AP"] for run in each} for each in (runs, reference))
    pairs = {seed: (ours[seed], others[seed]) for seed in ours if seed in others}
    by_seed = {seed: own - other for seed, (own, other) in pairs.items() if None not in (own, other)}
    above = sum(difference > 0 for difference in by_seed.values())
    return {
        "summary": {name: spread(column.value(run) for run in runs) for name, column in COLUMNS.items()},
        "difference": spread(by_seed.values()) | {"above": above, "by_seed": by_seed},
    }
