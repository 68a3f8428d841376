import math

import pytest

from oddetr.comparison.summary import spread, spread_text, summarise
from tests.comparison.synthetic import made_result


def test_spread_has_mean_and_sample_deviation_of_defined_values() -> None:
    found = spread([0.1, 0.3, None, 0.2, math.nan])
    assert (found["n"], found["values"]) == (3, [0.1, 0.3, 0.2])
    assert (found["mean"], found["deviation"]) == pytest.approx((0.2, 0.1))
    assert spread_text(found) == "0.200 ± 0.100"
    assert spread_text(found, 1, "+") == "+0.2 ± 0.1"
    assert spread_text(spread([0.25])) == "0.250 ± -"
    assert spread_text(spread([None])) == "-"


def test_summary_pairs_differences_by_seed() -> None:
    reference = [made_result(seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.3), (1, 0.5), (3, 0.9))]
    runs = [made_result("mine", seed=seed, teacher=(0.0, ap)) for seed, ap in ((0, 0.4), (1, 0.4), (2, 0.8))]
    found = summarise(runs, reference)
    assert found["difference"]["by_seed"] == {0: pytest.approx(0.1), 1: pytest.approx(-0.1)}
    assert found["difference"]["mean"] == pytest.approx(0.0)
    assert found["difference"]["above"] == 1
    means = {"teacher_ap": 1.6 / 3, "teacher_ap50": 3.2 / 3, "student_ap": 0.2, "minutes": 2.0}
    assert {name: found["summary"][name]["mean"] for name in means} == pytest.approx(means)


def test_summary_leaves_out_undefined_scores_and_epochs_without_a_value() -> None:
    runs = [made_result(seed=0, teacher=(None, None)), made_result(seed=1, teacher=(0.1, 0.4), without_duplicates=0.5)]
    found = summarise(runs, runs)
    assert found["difference"]["by_seed"] == {1: 0.0}
    assert found["summary"]["without_duplicates"]["values"] == [0.5]
    assert found["summary"]["teacher_ap"]["values"] == [0.4]
    run = made_result(teacher=(0.1,) * 3, student=(0.1,) * 3, instability=(None, 0.5, 0.1), carried=0.5)
    run.epochs[1]["matching_carried"] = 0.9
    run.epochs[2].pop("matching_carried")
    never = made_result(teacher=(0.1,), student=(0.1,), instability=(None,))
    columns = summarise([run, never], [])["summary"]
    assert columns["carried"]["values"] == [pytest.approx(0.7)]
    assert columns["student_instability"]["values"] == [pytest.approx(0.3)]
