import re
from dataclasses import replace

import numpy as np

from oddetr.training.plan.cautions import cautions
from tests.training.test_choice import annotations

PLENTY = annotations([40.0] * 60)


def test_sound_data_has_no_cautions() -> None:
    assert cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=60) == []


def test_small_objects_are_counted_and_a_larger_image_size_advised() -> None:
    (told,) = cautions(annotations([10.0] * 30 + [50.0] * 30), PLENTY, ["cell"], image_size=50, queries=100)

    assert "30 of 60 objects are smaller than 8 px at image size 50" in told
    assert "--image-size 80" in told
    assert cautions(annotations([10.0] * 30 + [50.0] * 30), PLENTY, ["cell"], image_size=80, queries=100) == []


def test_no_size_beyond_the_images_own_is_advised() -> None:
    (told,) = cautions(annotations([3.0] * 60), PLENTY, ["cell"], image_size=100, queries=100)

    assert "--image-size" not in told
    assert "shorter side of 100 px" in told


def test_too_few_queries_are_told_with_a_number_that_is_enough() -> None:
    (told,) = cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=50)

    assert "60 objects" in told
    assert "--detector.num-queries 120" in told
    assert cautions(PLENTY, PLENTY, ["cell"], image_size=100, queries=None) == []


def test_few_validation_objects_are_told() -> None:
    (told,) = cautions(PLENTY, annotations([40.0] * 7), ["cell"], image_size=100, queries=60)

    assert "7 objects" in told


def test_an_advised_size_is_larger_than_the_given_one() -> None:
    (told,) = cautions(annotations([3.0] + [90.0] * 18), PLENTY, ["cell"], image_size=80, queries=100)

    assert "--image-size" not in told or int(re.findall(r"--image-size (\d+)", told)[0]) > 80


def test_crowd_regions_do_not_fill_an_image() -> None:
    crowded = annotations([40.0] * 65, [False] * 5 + [True] * 60)

    assert cautions(crowded, PLENTY, ["cell"], image_size=100, queries=50) == []


def test_a_class_without_validation_image_is_named() -> None:
    both = replace(PLENTY, labels=np.arange(60) % 2)

    (told,) = cautions(both, PLENTY, ["king", "queen"], image_size=100, queries=60)

    assert told.startswith("No validation image shows queen:")
    assert cautions(both, both, ["king", "queen"], image_size=100, queries=60) == []
