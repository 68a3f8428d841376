import dataclasses
import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.auxiliary import auxiliary_group, select
from oddetr.distillation.config import AuxiliaryConfig
from oddetr.losses import LossConfig, assigned_loss
from oddetr.structures import GroundTruth, Predictions, Queries
from tests.models.helpers import VARIANTS, small_batch, small_detector

COST = torch.tensor([[[[3.0, 9.0], [1.0, 5.0]]], [[[2.0, 4.0], [4.0, 6.0]]]])
"""2 layers, 1 image, 2 queries, 2 objects: in layer 0 query 0 costs 3 and 9, query 1 1 and 5."""


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AuxiliaryConfig(), [{(0, 1), (1, 0)}, {(1, 0), (0, 1)}]),
        (AuxiliaryConfig(candidates=3), [{(0, 1), (1, 0), (0, 0)}, {(1, 0), (0, 1), (1, 1)}]),
        (AuxiliaryConfig(candidates=9), [{(0, 0), (0, 1), (1, 0), (1, 1)}] * 2),
        (AuxiliaryConfig(candidates=1, pool="per_layer"), [{(0, 1), (1, 0)}, {(0, 1), (1, 0)}]),
        (AuxiliaryConfig(distinct=True), [{(0, 1), (1, 0)}, {(1, 0), (0, 1)}]),
        (AuxiliaryConfig(candidates=3, distinct=True), [{(0, 1), (1, 0)}, {(1, 0), (0, 1)}]),
    ],
    ids=["2", "3", "more than there are", "per layer", "distinct", "distinct, more than queries"],
)
def test_select_when_done_by_hand_then_agrees(config: AuxiliaryConfig, expected: list[set[tuple[int, int]]]) -> None:
    """(layer, query) of each object's candidates."""
    layer, query = select(COST, config)
    for index, chosen in enumerate(expected):
        found = list(zip(layer[0, :, index].tolist(), query[0, :, index].tolist(), strict=True))
        assert set(found) == chosen
        assert len(found) == len(chosen)


def test_select_when_one_query_is_best_at_two_layers_then_counts_twice_unless_distinct() -> None:
    """Query 1 costs 1 at layer 0 and 1.5 at layer 1; query 0 costs 3 and 2."""
    cost = torch.tensor([[[[3.0], [1.0]]], [[[2.0], [1.5]]]])
    twice, once = (select(cost, AuxiliaryConfig(distinct=distinct)) for distinct in (False, True))
    assert twice[1].flatten().tolist() == [1, 1]
    assert sorted(twice[0].flatten().tolist()) == [0, 1]
    assert list(zip(*(part.flatten().tolist() for part in once), strict=True)) == [(0, 1), (1, 0)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), candidates=st.integers(1, 4))
def test_select_when_queries_are_permuted_then_selects_the_same(seed: int, candidates: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(2, 2, 5, 3, generator=generator)
    order = torch.randperm(5, generator=generator)
    config = AuxiliaryConfig(candidates=candidates)
    layer, query = select(cost, config)
    other_layer, other_query = select(cost[:, :, order], config)
    assert other_layer.equal(layer)
    assert order[other_query].equal(query)


@pytest.mark.parametrize(("pool", "distinct"), [("layers", False), ("layers", True), ("per_layer", False)])
@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_select_when_compared_with_sorting_then_gives_the_same_in_the_same_order(
    candidates: int, pool: Literal["layers", "per_layer"], distinct: bool
) -> None:
    """Three layers of two images, with four queries and two objects."""
    cost = torch.rand(3, 2, 4, 2, generator=torch.Generator().manual_seed(candidates))
    layer, query = select(cost, AuxiliaryConfig(candidates=candidates, pool=pool, distinct=distinct))
    count = candidates * (3 if pool == "per_layer" else 1)
    assert layer.shape == query.shape == (2, count, 2)
    for image, item in itertools.product(range(2), range(2)):
        by_cost = sorted(itertools.product(range(3), range(4)), key=lambda at: cost[at[0], image, at[1], item].item())
        if distinct:
            by_cost = [at for at in by_cost if at == next(each for each in by_cost if each[1] == at[1])]
        if pool == "per_layer":
            expected = [at for each in range(3) for at in [at for at in by_cost if at[0] == each][:candidates]]
        else:
            expected = by_cost[:candidates]
        found = zip(layer[image, :, item].tolist(), query[image, :, item].tolist(), strict=True)
        assert list(found) == expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("anchors", ["initial", "box"])
def test_group_when_made_then_holds_contents_boxes_positions_and_objects(variant: str, anchors: str) -> None:
    """Each query is what its candidate was; queries of padded objects are padding and have no object."""
    student, batch = small_detector(variant), small_batch((2, 0))
    for head in student.decoder.heads:  # or every box would be its anchor, as it is at first
        torch.nn.init.normal_(head.boxes.layers[-1].weight, std=0.5)
    task = DistillationTask(student, 10)
    view = task.view(batch)
    config = AuxiliaryConfig(anchors=anchors)
    detector = task.teacher.detector
    group = auxiliary_group(detector, view.queries, view.predictions, view.cost, batch.truth, config)
    queries = group.queries
    assert group.repeats == 2
    assert group.assignment.tolist() == [[0, 1, 0, 1], [-1, -1, -1, -1]]
    assert queries.padding.tolist() == [[False] * 4, [True] * 4]
    layer, query = select(view.cost, config)
    for place in range(4):
        candidate, item = divmod(place, 2)
        at = (layer[0, candidate, item], 0, query[0, candidate, item])
        assert queries.content[0, place].equal(view.predictions.content[at])
        box = view.predictions.boxes[at]
        points = variant in ("plain", "refine") and anchors == "initial"
        assert queries.anchors[0, place].equal(box[:2] if points else box)
        if variant in ("dab", "dino"):
            assert queries.position is None
            continue
        learned = view.queries.position[0, query[0, candidate, item]]
        if variant == "two_stage":
            expected = detector.query_source.position(queries.anchors, queries.position)[0, place]
            torch.testing.assert_close(queries.position[0, place], expected)
            assert not expected.allclose(learned)
        else:
            assert queries.position[0, place].equal(learned)
    assert not queries.content.requires_grad


def test_loss_when_computed_by_hand_then_divides_by_the_groups_number() -> None:
    """One object (.5 .5 .4 .4) of one class, two candidates, all logits 0 and boxes (.5 .5 .2 .2): IoU 1/4, L1 0.4,
    1 - GIoU 3/4; QFL (1/4)^2 ln 2. Both the same, divided by 2; the second image has
    only padding, which adds nothing."""
    task = DistillationTask(small_detector(), 10)
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    truth = GroundTruth.stack([torch.tensor([0]), nothing[0]], [torch.tensor([[0.5, 0.5, 0.4, 0.4]]), nothing[1]])
    view = task.view(small_batch((1, 0)))
    group = auxiliary_group(task.teacher.detector, view.queries, view.predictions, view.cost, truth, AuxiliaryConfig())
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(3, 2, 2, 4)
    found = Predictions(torch.zeros(3, 2, 2, 1), boxes, torch.zeros(3, 2, 2, 1))
    loss = assigned_loss(found, truth, group, torch.tensor(1.0), "quality_focal")
    assert loss.l1.tolist() == pytest.approx([0.4] * 3)
    assert loss.giou.tolist() == pytest.approx([0.75] * 3)
    assert loss.classes.tolist() == pytest.approx([0.0625 * 0.6931472] * 3)


def test_group_when_apart_then_an_objects_two_queries_are_decoded_as_if_alone() -> None:
    task, batch = DistillationTask(small_detector("refine"), 10), small_batch((2, 1))
    view, memory = task.view(batch), task.student.encode(batch.images, batch.padding_mask)
    group = auxiliary_group(
        task.teacher.detector, view.queries, view.predictions, view.cost, batch.truth, AuxiliaryConfig(apart=True)
    )
    found = task.student.decode(memory, {"auxiliary": group.queries})["auxiliary"]
    queries = group.queries
    for rank in (slice(0, 2), slice(2, 4)):
        parts = (queries.content, queries.anchors, queries.position, queries.identity, queries.padding)
        alone = task.student.decode(memory, {"one": Queries(*(part[:, rank] for part in parts))})["one"]
        torch.testing.assert_close(found.logits[:, :, rank], alone.logits, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found.boxes[:, :, rank], alone.boxes, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_when_objects_are_padded_further_then_is_the_same(variant: str) -> None:
    config = DistillationConfig()
    batch = small_batch((2, 1))
    truth = GroundTruth(
        torch.nn.functional.pad(batch.truth.labels, (0, 3), value=-1),
        torch.nn.functional.pad(batch.truth.boxes, (0, 0, 0, 3)),
        batch.truth.counts,
    )
    task = DistillationTask(small_detector(variant), 10, config, LossConfig())
    found: list[dict[str, torch.Tensor]] = []
    for each in (batch, dataclasses.replace(batch, truth=truth)):
        torch.manual_seed(0)
        found.append(task(each))
    first, second = found
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=1e-5)
