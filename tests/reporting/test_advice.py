import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from oddetr.data.dataset import ClassTable
from oddetr.reporting.advice import Advice, advise
from oddetr.reporting.findings import Findings
from oddetr.reporting.record import Record


def advice(
    confusion: Any = ((48, 0, 2), (0, 47, 3), (1, 1, 0)),
    ap: float = 0.7,
    ap_small: float = 0.6,
    small: int = 30,
    duplicates: float = 0.0,
    aps: tuple[float, ...] = (0.2, 0.5, 0.65, 0.69, 0.7, 0.7),
    image_size: int = 640,
    f1: float = 0.96,
) -> Advice:
    """On a detector of cats and dogs, by default a good one, of images whose shorter side has 800 pixels, as a rule."""
    findings = Mock(
        spec=Findings,
        source=Mock(classes=ClassTable(("cat", "dog"), (1, 2))),
        truth=Mock(sizes=np.array([[800, 1200], [1000, 800], [1200, 900]])),
        confusion=np.array(confusion),
        threshold=0.4,
        f1=f1,
        metrics=Mock(ap=ap, ap_small=ap_small),
        distinct=Mock(ap=ap + duplicates),
        objects_by_size={"small": small},
    )
    record = Mock(spec=Record, folder=Path("runs/mine"), configuration={"image_size": image_size})
    record.scores.return_value.y = aps
    return advise(record, findings)


def test_advice_on_a_good_detector_counts_what_it_finds_and_sends_to_the_test_split() -> None:
    good = advice()
    assert good.kind == "stable"
    assert "95 of 100 objects" in good.seen
    assert "95 of its 97 detections" in good.seen
    assert good.failures == ["dog, the weakest class: 47 of 50 are found."]
    assert good.steps == ["Score it on images that nothing was chosen by: `oddetr evaluate runs/mine --split test`."]


@pytest.mark.parametrize(
    ("f1", "words"),
    [(0.9, "many uses"), (0.89, "a person who checks"), (0.74, "Not reliable"), (0.5, "Not reliable"), (0.1, "usable")],
)
def test_verdict_by_f1(f1: float, words: str) -> None:
    assert words in advice(f1=f1).verdict


@pytest.mark.parametrize(("image_size", "steps"), [(799, ["Show"]), (800, [])])
def test_failures_are_named_with_what_helps(image_size: int, steps: list[str]) -> None:
    """Larger images are only advised where there are any."""
    bad = advice(
        confusion=((20, 10, 20), (0, 45, 5), (20, 1, 0)),
        f1=0.6,
        ap_small=0.2,
        duplicates=0.05,
        aps=(0.1, 0.2, 0.3, 0.4, 0.5),
        image_size=image_size,
    )
    assert bad.failures == [
        "cat: 20 of 50 are found.",
        "cat is taken for dog: 10 of 50.",
        "21 of 96 detections show no labelled object, or one that was found already.",
        "Small objects: AP 0.20, and 0.70 of all.",
        "Duplicate detections cost 0.05 AP.",
    ]
    assert [step.split()[0] for step in bad.steps] == ["Label", "Look", *steps, "Train"]


def test_a_run_that_was_best_early_is_called_too_long() -> None:
    assert "train shorter" in advice(aps=(0.2, 0.7, 0.68, 0.66, 0.65, 0.65)).steps[0]


def test_advice_without_objects_or_with_few_says_so() -> None:
    nothing = advice(confusion=((0, 0, 0), (0, 0, 0), (3, 0, 0)), f1=0.0, ap=math.nan, ap_small=math.nan)
    assert nothing.kind == "unknown"
    few = advice(confusion=((4, 0, 0), (0, 4, 0), (0, 0, 0)), ap_small=math.nan, small=0)
    assert "So few objects" in few.seen
    assert few.failures == []
