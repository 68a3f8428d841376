import math

import pytest

from oddetr.comparison.summary import Spread, summarise
from tests.comparison.synthetic import made_result


def test_spread_has_mean_and_sample_deviation_of_defined_values() -> None:
    spread = Spread.of([0.1, 0.3, None, 0.2, math.nan])
    assert spread.values == (0.1, 0.3, 0.2)
    assert spread.mean == pytest.approx(0.2)
    assert spread.deviation == pytest.approx(0.1)
    assert spread.text() == "0.200 ± 0.100"
    assert spread.text(1, "+") == "+0.2 ± 0.1"
    assert Spread.of([0.25]).text() == "0.250 ± -"
    assert Spread.of([None]).text() == "-"


def test_summary_pairs_differences_by_seed() -> None:
    reference = [made_result(seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.3), (1, 0.5), (3, 0.9))]
    runs = [made_result("mine", seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.4), (1, 0.4), (2, 0.8))]
    summary = summarise("mine", runs, reference)
    assert summary.seeds == (0, 1, 2)
    assert summary.differences == {0: pytest.approx(0.1), 1: pytest.approx(-0.1)}
    assert summary.difference.mean == pytest.approx(0.0)
    assert summary.above == 1
    means = {"teacher_ap": 1.6 / 3, "teacher_ap50": 3.2 / 3, "student_ap": 0.2, "minutes": 2.0}
    assert {name: summary.spreads[name].mean for name in means} == pytest.approx(means)


def test_summary_leaves_out_undefined_scores() -> None:
    runs = [made_result(seed=0, teacher=(None, None)), made_result(seed=1, teacher=(0.1, 0.4), without_duplicates=0.5)]
    summary = summarise("qfl", runs, runs)
    assert summary.differences == {1: 0.0}
    assert summary.spreads["without_duplicates"].values == (0.5,)
    assert summary.spreads["teacher_ap"].values == (0.4,)


def test_summary_means_over_the_epochs_that_have_a_value() -> None:
    run = made_result(teacher=(0.1,) * 3, student=(0.1,) * 3, instability=(None, 0.5, 0.1), carried=0.5)
    run.epochs[1]["matching_carried"] = 0.9
    run.epochs[2].pop("matching_carried")
    never = made_result(teacher=(0.1,), student=(0.1,), instability=(None,))
    spreads = summarise("qfl", [run, never], []).spreads
    assert spreads["carried"].values == (pytest.approx(0.7),)
    assert spreads["student_instability"].values == (pytest.approx(0.3),)
