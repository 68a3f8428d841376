import re
from dataclasses import replace

import numpy as np

from oddetr.training.plan.cautions import cautions
from tests.training.test_choice import annotations

PLENTY = annotations([40.0] * 60)


def test_cautions_when_data_is_in_order_then_there_are_none() -> None:
    assert cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=60) == []


def test_cautions_when_objects_are_small_at_this_size_then_it_says_which_size_shows_them() -> None:
    (told,) = cautions(annotations([10.0] * 30 + [50.0] * 30), PLENTY, ["cell"], image_size=50, queries=100)

    assert "30 of 60 objects are smaller than 8 px at image size 50" in told
    assert "--image-size 80" in told
    assert cautions(annotations([10.0] * 30 + [50.0] * 30), PLENTY, ["cell"], image_size=80, queries=100) == []


def test_cautions_when_objects_are_small_in_the_images_themselves_then_no_larger_size_is_advised() -> None:
    (told,) = cautions(annotations([3.0] * 60), PLENTY, ["cell"], image_size=100, queries=100)

    assert "--image-size" not in told
    assert "shorter side of 100 px" in told


def test_cautions_when_an_image_has_more_objects_than_queries_then_it_says_how_many_to_ask_for() -> None:
    (told,) = cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=50)

    assert "60 objects" in told
    assert "--detector.num-queries 120" in told
    assert cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=None) == []


def test_cautions_when_validation_is_tiny_then_it_says_that_ap_moves_by_chance() -> None:
    (told,) = cautions(PLENTY, annotations([40.0] * 7), ["cell"], image_size=100, queries=60)

    assert "7 objects" in told


def test_cautions_when_few_objects_are_small_then_the_size_that_is_advised_is_larger() -> None:
    (told,) = cautions(annotations([3.0] + [90.0] * 18), PLENTY, ["cell"], image_size=80, queries=100)

    assert "--image-size" not in told or int(re.findall(r"--image-size (\d+)", told)[0]) > 80


def test_cautions_when_an_image_is_full_of_regions_to_ignore_then_it_is_not_full() -> None:
    crowded = annotations([40.0] * 65, [False] * 5 + [True] * 60)

    assert cautions(crowded, PLENTY, ["cell"], image_size=100, queries=50) == []


def test_cautions_when_a_class_is_in_no_validation_image_then_it_is_named() -> None:
    both = replace(PLENTY, labels=np.arange(60) % 2)

    (told,) = cautions(both, PLENTY, ["king", "queen"], image_size=100, queries=60)

    assert told.startswith("No validation image shows queen:")
    assert cautions(both, both, ["king", "queen"], image_size=100, queries=60) == []
