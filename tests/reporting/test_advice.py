import math
from dataclasses import replace

import numpy as np
import pytest

from oddetr.reporting.advice import Outcome, advise

GOOD = Outcome(
    names=("cat", "dog"),
    confusion=np.array([[48, 0, 2], [0, 47, 3], [1, 1, 0]]),
    threshold=0.4,
    f1=0.96,
    ap=0.7,
    ap_small=0.6,
    small=30,
    duplicates=0.0,
    aps=(0.2, 0.5, 0.65, 0.69, 0.7, 0.7),
    enlargeable=True,
    run="runs/mine",
)


def test_advice_on_a_good_detector_counts_what_it_finds_and_sends_to_the_test_split() -> None:
    advice = advise(GOOD)
    assert advice.kind == "stable"
    assert "95 of 100 objects" in advice.seen
    assert "95 of its 97 detections" in advice.seen
    assert advice.failures == ["dog, the weakest class: 47 of 50 are found."]
    assert advice.steps == ["Score it on images that nothing was chosen by: `oddetr evaluate runs/mine --split test`."]


@pytest.mark.parametrize(
    ("f1", "words"),
    [(0.9, "many uses"), (0.89, "a person who checks"), (0.74, "Not reliable"), (0.5, "Not reliable"), (0.1, "usable")],
)
def test_verdict_by_f1(f1: float, words: str) -> None:
    assert words in advise(replace(GOOD, f1=f1)).verdict


def test_failures_are_named_with_what_helps() -> None:
    table = np.array([[20, 10, 20], [0, 45, 5], [20, 1, 0]])
    bad = replace(GOOD, confusion=table, f1=0.6, ap_small=0.2, duplicates=0.05, aps=(0.1, 0.2, 0.3, 0.4, 0.5))
    advice = advise(bad)
    assert advice.failures == [
        "cat: 20 of 50 are found.",
        "cat is taken for dog: 10 of 50.",
        "21 of 96 detections show no labelled object, or one that was found already.",
        "Small objects: AP 0.20, and 0.70 of all.",
        "Duplicate detections cost 0.05 AP.",
    ]
    assert [step.split()[0] for step in advice.steps] == ["Label", "Look", "Show", "Train"]
    assert "--image-size" not in " ".join(advise(replace(bad, enlargeable=False)).steps)


def test_a_run_that_was_best_early_is_called_too_long() -> None:
    assert "train shorter" in advise(replace(GOOD, aps=(0.2, 0.7, 0.68, 0.66, 0.65, 0.65))).steps[0]


def test_advice_without_objects_or_with_few_says_so() -> None:
    nothing = replace(
        GOOD, confusion=np.array([[0, 0, 0], [0, 0, 0], [3, 0, 0]]), f1=0.0, ap=math.nan, ap_small=math.nan
    )
    assert advise(nothing).kind == "unknown"
    few = replace(GOOD, confusion=np.array([[4, 0, 0], [0, 4, 0], [0, 0, 0]]), ap_small=math.nan, small=0)
    assert "So few objects" in advise(few).seen
    assert advise(few).failures == []
