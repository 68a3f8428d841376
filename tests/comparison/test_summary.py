import math

import pytest

from oddetr.comparison.summary import Spread, summarise
from tests.comparison.synthetic import made_result


def test_spread_when_of_several_values_then_is_mean_and_sample_deviation() -> None:
    spread = Spread.of([0.1, 0.3, None, 0.2, math.nan])
    assert spread.values == (0.1, 0.3, 0.2)
    assert spread.mean == pytest.approx(0.2)
    assert spread.deviation == pytest.approx(0.1)
    assert spread.text() == "0.200 ± 0.100"
    assert spread.text(1, "+") == "+0.2 ± 0.1"


def test_spread_when_of_one_value_or_none_then_has_a_dash() -> None:
    assert Spread.of([0.25]).text() == "0.250 ± -"
    assert Spread.of([None]).text() == "-"


def test_summary_when_seeds_are_missing_then_differences_are_of_pairs_only() -> None:
    reference = [made_result(seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.3), (1, 0.5), (3, 0.9))]
    runs = [made_result("mine", seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.4), (1, 0.4), (2, 0.8))]
    summary = summarise("mine", runs, reference)
    assert summary.seeds == (0, 1, 2)
    assert summary.differences == {0: pytest.approx(0.1), 1: pytest.approx(-0.1)}
    assert summary.difference.mean == pytest.approx(0.0)
    assert summary.above == 1
    assert summary.teacher_ap.mean == pytest.approx(1.6 / 3)
    assert summary.teacher_ap50.mean == pytest.approx(3.2 / 3)
    assert summary.student_ap.mean == pytest.approx(0.2)
    assert summary.minutes.values == (2.0, 2.0, 2.0)


def test_summary_when_scores_are_not_defined_then_leaves_them_out() -> None:
    runs = [made_result(seed=0, teacher=(None, None)), made_result(seed=1, teacher=(0.1, 0.4), without_duplicates=0.5)]
    assert summarise("qfl", runs, []).without_duplicates.values == (0.5,)
    assert summarise("qfl", runs, runs).differences == {1: 0.0}
    assert summarise("qfl", runs, []).teacher_ap.values == (0.4,)


def test_carried_when_some_epochs_tell_it_then_is_the_mean_over_these() -> None:
    run = made_result(carried=0.5)
    run.epochs[1]["matching_carried"] = 0.9
    assert summarise("qfl", [run, made_result(seed=1)], []).carried.values == (pytest.approx(0.7),)
    run.epochs[1].pop("matching_carried")
    assert summarise("qfl", [run], []).carried.values == (0.5,)


def test_instability_when_summarised_then_is_the_mean_over_validations_of_the_last_layer() -> None:
    run = made_result(teacher=(0.1,) * 3, student=(0.1,) * 3, instability=(None, 0.5, 0.1))
    assert summarise("qfl", [run], []).student_instability.values == (pytest.approx(0.3),)
    never = made_result(teacher=(0.1,), student=(0.1,), instability=(None,))
    assert summarise("qfl", [never], []).teacher_instability.text() == "-"
