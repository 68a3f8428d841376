"""The bits are pinned, patches are cut tight, and a scene knows what it may cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddetr.data.painting import MAX_COVERED, Dice, Patch, Scene, background, ellipse, patch_of, rotation, stroke


def square(side: int) -> Patch:
    found = patch_of(np.ones((side, side), dtype=np.float32))
    assert found is not None
    return found[0]


def test_dice_when_thrown_then_numpys_guaranteed_stream() -> None:
    dice = Dice(key=(1, 2), position=(3, 4))
    assert [dice.integer(0, 999) for _ in range(5)] == [927, 319, 714, 460, 378]
    assert Dice((1, 2), (3, 4)).bytes(3).tolist() == [199, 191, 1]


@given(seed=st.integers(0, 2**63), low=st.integers(-50, 50), span=st.integers(0, 20))
def test_dice_when_thrown_then_within_bounds(seed: int, low: int, span: int) -> None:
    dice = Dice(key=(seed, 0))
    assert low <= dice.integer(low, low + span) <= low + span
    assert 0.0 <= dice.uniform() < 1.0
    assert sorted(dice.order(span + 1).tolist()) == list(range(span + 1))
    assert dice.bytes(2, span + 1).shape == (2, span + 1)


@given(t=st.floats(-1, 1))
def test_rotation_when_t_is_given_then_the_angle_is_twice_its_arctangent(t: float) -> None:
    cosine, sine = rotation(t)
    assert cosine == pytest.approx(np.cos(2 * np.arctan(t)), abs=1e-12)
    assert sine == pytest.approx(np.sin(2 * np.arctan(t)), abs=1e-12)


def test_patch_when_cut_then_keeps_the_soft_edge_and_boxes_the_ink() -> None:
    opacity = np.zeros((9, 12), dtype=np.float32)
    opacity[2:6, 3:8] = 0.25
    opacity[3:5, 5:7] = 0.75
    found = patch_of(opacity)
    assert found is not None
    patch, top, left = found
    assert (top, left) == (2, 3)
    assert patch.alpha.shape == (4, 5)
    assert patch.box == (2, 1, 4, 3)
    assert patch.ink.sum() == 4


def test_patch_when_there_is_no_ink_then_none() -> None:
    assert patch_of(np.full((4, 4), 0.4, dtype=np.float32)) is None


@pytest.mark.parametrize("shape", [stroke, ellipse])
def test_shapes_when_drawn_then_stay_inside_the_scene(shape) -> None:
    dice = Dice((0, 0))
    for _ in range(50):
        found = shape(dice, 64)
        if found is not None:
            patch, top, left = found
            assert top + patch.ink.shape[0] <= 64
            assert left + patch.ink.shape[1] <= 64


def test_background_when_painted_then_grey_levels() -> None:
    for index in range(20):
        pixels = background(Dice((0, 0), (index, 0)), 64)
        assert pixels.shape == (3, 64, 64)
        assert pixels.min() >= 0
        assert pixels.max() <= 255


def test_scene_when_an_object_is_covered_to_the_limit_then_allows_no_more() -> None:
    scene = Scene(Dice((0, 0)), 64)
    assert scene.place(3, square(20), attempts=1)
    (x0, y0, _, _), patch = scene.boxes[0], square(10)
    assert scene.labels == [3]
    assert scene.allows(patch, y0, x0)
    scene.paint(patch, y0, x0, [0, 0, 0])
    assert scene.covered == [100]
    assert scene.covered[0] == MAX_COVERED * scene.ink[0]
    assert scene.allows(patch, y0, x0)
    assert not scene.allows(square(1), y0 + 15, x0 + 15)


def test_scene_when_there_is_no_room_then_places_nothing() -> None:
    scene = Scene(Dice((0, 0)), 64)
    assert scene.place(0, square(64), attempts=1)
    assert not scene.place(1, square(64), attempts=5)
    assert scene.labels == [0]
