import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from oddetr.boxes import cxcywh_to_xyxy, generalized_iou, iou, pairwise_l1, xyxy_to_cxcywh

coordinates = st.floats(0, 1, width=32)
sides = st.floats(0, 1, width=32)
visible_sides = st.floats(0.015625, 1, width=32)


def box_lists(side: st.SearchStrategy[float], min_size: int = 1) -> st.SearchStrategy[Tensor]:
    """[n, 4] boxes (cx, cy, w, h), `min_size` <= n <= 5."""
    box = st.tuples(coordinates, coordinates, side, side)
    return st.lists(box, min_size=min_size, max_size=5).map(lambda boxes: torch.tensor(boxes).reshape(-1, 4))


any_boxes, visible_boxes = box_lists(sides), box_lists(visible_sides)
DEGENERATE = torch.tensor(
    [
        [0.5, 0.5, 0, 0],
        [0.5, 0.5, 0.2, 0],
        [0.5, 0.5, 0, 0.1],
        [0.5, 0.5, 1e-30, 1e-30],
        [0.1, 0.9, 0, 0],
        [0.5, 0.5, 1, 1],
    ]
)


@given(visible_boxes)
def test_formats_when_there_and_back_then_equal(boxes: Tensor) -> None:
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, rtol=0, atol=1e-6)


def test_formats_when_known_box_then_known_corners() -> None:
    box, corners = torch.tensor([0.5, 0.25, 0.5, 0.125]), torch.tensor([0.25, 0.1875, 0.75, 0.3125])
    assert torch.equal(cxcywh_to_xyxy(box), corners)
    assert torch.equal(xyxy_to_cxcywh(corners), box)


@given(any_boxes, any_boxes)
def test_overlaps_when_any_boxes_then_in_range_and_symmetric(first: Tensor, second: Tensor) -> None:
    """IoU in [0, 1], GIoU in [-1, IoU]."""
    overlap, generalized = (measure(first[:, None], second[None]) for measure in (iou, generalized_iou))
    assert overlap.shape == (len(first), len(second))
    assert ((overlap >= 0) & (overlap <= 1 + 1e-6)).all()
    assert ((generalized >= -1 - 1e-6) & (generalized <= overlap + 1e-6)).all()
    assert torch.equal(overlap, iou(second[:, None], first[None]).T)
    assert torch.equal(generalized, generalized_iou(second[:, None], first[None]).T)


@given(visible_boxes, visible_boxes)
def test_overlaps_when_all_pairs_then_equal_torchvision(first: Tensor, second: Tensor) -> None:
    corners = cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)
    torch.testing.assert_close(iou(first[:, None], second[None]), box_iou(*corners), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        generalized_iou(first[:, None], second[None]), generalized_box_iou(*corners), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("measure", [iou, generalized_iou])
def test_overlaps_when_a_box_is_tiny_but_not_empty_then_are_exact(measure) -> None:
    """A hundred-thousandth of the image wide, and a box of half its width inside it."""
    box = torch.tensor([1e-5, 1e-5, 1e-5, 1e-5])
    half = torch.tensor([1e-5, 1e-5, 5e-6, 1e-5])
    assert measure(box, box).item() == pytest.approx(1)
    assert measure(box, half).item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("measure", [iou, generalized_iou])
def test_overlaps_when_boxes_are_degenerate_then_value_and_gradient_are_finite(measure) -> None:
    first, second = DEGENERATE.clone().requires_grad_(), DEGENERATE.clone().requires_grad_()
    pairs = measure(first[:, None], second[None])
    pairs.sum().backward()
    assert pairs.isfinite().all()
    for gradient in (first.grad, second.grad):
        assert gradient is not None
        assert gradient.norm().isfinite()


@given(any_boxes, any_boxes)
def test_generalized_iou_when_any_boxes_then_gradient_norm_is_finite(first: Tensor, second: Tensor) -> None:
    first.requires_grad_()
    generalized_iou(first[:, None], second[None]).sum().backward()
    assert first.grad is not None
    assert first.grad.norm().isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_when_half_precision_then_computed_in_float32(dtype: torch.dtype) -> None:
    low = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    first, second = low.unbind(1)
    for measure in (iou, generalized_iou, pairwise_l1):
        assert torch.equal(measure(first, second), measure(first.float(), second.float()))
        assert measure(first, second).dtype == torch.float32
        assert measure(first.double(), second.double()).dtype == torch.float64
    for convert in (cxcywh_to_xyxy, xyxy_to_cxcywh):
        assert torch.equal(convert(low), convert(low.float()))


@given(any_boxes, any_boxes)
def test_pairwise_l1_when_all_pairs_then_sum_of_differences(first: Tensor, second: Tensor) -> None:
    by_hand = (first[:, None] - second[None]).abs().sum(dim=-1)
    torch.testing.assert_close(pairwise_l1(first, second), by_hand, rtol=0, atol=1e-6)


def test_pairwise_measures_when_an_image_is_empty_then_empty() -> None:
    queries, objects = torch.rand(2, 3, 4), torch.zeros(2, 0, 4)
    assert pairwise_l1(queries, objects).shape == (2, 3, 0)
    assert generalized_iou(queries[:, :, None], objects[:, None]).shape == (2, 3, 0)
