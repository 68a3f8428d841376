"""The bits are fixed, patches are cut tight, and a scene limits what is covered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddetr.data.digits_painting import MAX_COVERED, Dice, Patch, Scene, ellipse, rotation, stroke


def square(side: int, top: int = 0, left: int = 0) -> Patch:
    return Patch(np.full((side, side), 256, np.int32), np.ones((side, side), bool), (0, 0, side, side), top, left)


def test_dice_give_numpys_guaranteed_stream() -> None:
    dice = Dice(key=(1, 2), position=(3, 4))
    assert [dice.integer(0, 999) for _ in range(5)] == [927, 319, 714, 460, 378]
    assert Dice((1, 2), (3, 4)).bytes(3).tolist() == [199, 191, 1]


@given(seed=st.integers(0, 2**63), low=st.integers(-50, 50), span=st.integers(0, 20), t=st.floats(-1, 1))
def test_dice_stay_within_bounds_and_rotations_are_exact(seed: int, low: int, span: int, t: float) -> None:
    dice = Dice(key=(seed, 0))
    assert low <= dice.integer(low, low + span) <= low + span
    assert 0.0 <= dice.uniform() < 1.0
    assert sorted(dice.order(span + 1).tolist()) == list(range(span + 1))
    assert dice.bytes(2, span + 1).shape == (2, span + 1)
    assert rotation(t) == pytest.approx((np.cos(2 * np.arctan(t)), np.sin(2 * np.arctan(t))), abs=1e-12)


def test_patch_keeps_the_soft_edge_and_boxes_the_ink() -> None:
    opacity = np.zeros((9, 12), dtype=np.float32)
    opacity[2:6, 3:8] = 0.25
    assert Patch.cut(opacity) is None
    opacity[3:5, 5:7] = 0.75
    patch = Patch.cut(opacity)
    assert patch is not None
    assert (patch.top, patch.left, patch.alpha.shape, patch.box) == (2, 3, (4, 5), (2, 1, 4, 3))
    assert patch.ink.sum() == 4


@pytest.mark.parametrize("shape", [stroke, ellipse])
def test_shapes_stay_inside_the_scene(shape) -> None:
    dice = Dice((0, 0))
    patches = [patch for patch in (shape(dice, 64) for _ in range(50)) if patch is not None]
    assert patches
    assert all(axis.stop <= 64 for patch in patches for axis in patch.area)


def test_scene_covers_an_object_up_to_the_limit_and_no_more() -> None:
    scene = Scene(Dice((0, 0)), 64)
    assert scene.add(3, square(20), attempts=1)
    x0, y0, _, _ = scene.boxes[0]
    quarter = square(10, y0, x0)
    assert scene.allows(quarter)
    scene.paint(quarter, [0, 0, 0])
    assert scene.covered[0] == 100 == MAX_COVERED * scene.ink[0]
    assert scene.allows(quarter)
    assert not scene.allows(square(1, y0 + 15, x0 + 15))
    assert not scene.add(1, square(64), attempts=5)
    assert scene.labels == [3]
