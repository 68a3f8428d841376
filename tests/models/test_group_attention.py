"""Query groups: decoded together, apart in self-attention."""

from dataclasses import replace

import pytest
import torch

from oddetr.models.detector import Detector
from oddetr.models.group_attention import GroupAttention
from oddetr.structures import Memory, Queries
from tests.models.helpers import (
    VARIANTS,
    assert_predictions_close,
    other_group,
    part_of,
    small_batch,
    small_detector,
)
from tests.operations import Operations


def encoded(variant: str) -> tuple[Detector, Memory, Queries]:
    detector = small_detector(variant).eval()
    batch = small_batch((2, 1))
    memory = detector.encode(batch.images, batch.padding_mask)
    return detector, memory, detector.initial_queries(memory).queries


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_do_not_change_one_another(variant: str) -> None:
    detector, memory, own = encoded(variant)
    groups = {"own": own, "points": other_group(own, 5, 2), "boxes": other_group(own, 1, 4, seed=1)}
    alone = {name: detector.decode(memory, {name: group})[name] for name, group in groups.items()}
    for order in (("own", "points", "boxes"), ("boxes", "own", "points")):
        together = detector.decode(memory, {name: groups[name] for name in order})
        assert list(together) == list(order)
        for name, expected in alone.items():
            assert_predictions_close(together[name], expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_no_query_of_its_group(variant: str) -> None:
    """The second image has padding only, and gives finite values and gradients."""
    detector, memory, own = encoded(variant)
    group = other_group(own, 6, 4)
    padding = torch.tensor([[False, False, False, False, True, True], [True] * 6])
    padded = detector.decode(memory, {"group": replace(group, padding=padding)})["group"]
    expected = detector.decode(memory, {"group": part_of(group, 0, 4)})["group"]
    assert padded.boxes.isfinite().all()
    torch.testing.assert_close(padded.logits[:, 0, :4], expected.logits[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(padded.boxes[:, 0, :4], expected.boxes[:, 0], atol=1e-6, rtol=1e-6)
    padded.logits.sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in detector.parameters())


def test_a_point_reads_like_the_box_of_its_reach() -> None:
    """Around a point offsets count in cells, as in a box of 2 * points cells on a memory of equal levels."""
    detector, _, _ = encoded("plain")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 64 * 4, 32, generator=generator)
    memory = Memory(tokens, torch.zeros(1, 64 * 4, dtype=torch.bool), ((8, 8),) * 4, torch.ones(1, 4, 2))
    points = Queries(torch.randn(1, 3, 32), torch.rand(1, 3, 2), torch.randn(1, 3, 32), torch.arange(3)[None])
    boxes = replace(points, anchors=torch.cat([points.anchors, torch.full((1, 3, 2), 2 * 2 / 8)], dim=-1))
    one, other = (detector.decode(memory, {"own": group})["own"] for group in (points, boxes))
    torch.testing.assert_close(one.content, other.content, atol=1e-6, rtol=1e-6)


def test_self_attention_is_that_of_torchs_module_to_the_bit() -> None:
    layer = small_detector("refine").decoder.layers[0].eval()
    queries, values = torch.randn(2, 2, 5, layer.self_attn.embed_dim).unbind()
    padding, mask = torch.arange(5).expand(2, -1) > 3, torch.ones(5, 5).triu(1).bool()
    ours = layer._attend([queries], [values], GroupAttention(5, (0,), padding, mask), layer._attention_weights())
    masks = {"key_padding_mask": padding, "attn_mask": mask}
    theirs, _ = layer.self_attn(queries, queries, values, **masks, need_weights=False)
    assert ours.equal(theirs)
    found, expected = (
        torch.autograd.grad(attended.square().sum(), [*layer.self_attn.parameters()]) for attended in (ours, theirs)
    )
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def test_weights_are_cast_once_for_all_groups() -> None:
    """Under autocast: those into self-attention, which no other layer's are shaped as."""
    detector, memory, own = encoded("refine")
    width = own.content.shape[-1]
    groups = {"own": own, "points": other_group(own, 5, 2), "boxes": other_group(own, 1, 4)}
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), Operations() as operations:
        detector.decode(memory, groups)
    assert operations.casts[3 * width, width] == len(detector.decoder.layers)
