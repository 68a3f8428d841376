import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.distillation import DistillationTask
from oddetr.distillation.auxiliary import Chosen, auxiliary_group, candidates, candidates_and_rivals
from oddetr.distillation.config import AuxiliaryConfig
from oddetr.distillation.group import Assigned, Group
from oddetr.distillation.teacher import TeacherView
from oddetr.losses.detection import LossConfig
from oddetr.structures import AssignedQueries, Batch, GroundTruth
from tests.losses.helpers import padded
from tests.models.helpers import VARIANTS, part_of, small_batch, small_detector

COST = torch.tensor(
    [
        [[[1.0, 9.0], [6.0, 8.0], [4.0, 2.0], [5.0, 6.0], [9.0, 7.0]]],
        [[[2.0, 3.0], [3.0, 9.5], [8.0, 5.0], [7.0, 1.0], [9.5, 4.0]]],
    ]
)
"""2 layers, 1 image, 5 queries, 2 objects A and B: in layer 0 query 0 costs A 1 and B 9."""


def listed(chosen: Chosen, item: int, image: int = 0) -> list[tuple[int, int] | None]:
    """(layer, query) of each rank, None where it only fills up."""
    parts = (chosen.layer, chosen.query, chosen.present)
    ranks = zip(*(part[image, :, item].tolist() for part in parts), strict=True)
    return [(layer, query) if present else None for layer, query, present in ranks]


def viewed(task: DistillationTask, batch: Batch) -> TeacherView:
    memory = task.student.encode(batch.images, batch.padding_mask)
    return task.view(batch, memory, task.student.initial_queries(memory))


def group_of(task: DistillationTask, view: TeacherView, truth: GroundTruth, config: AuxiliaryConfig) -> Group:
    return auxiliary_group(task.teacher.detector, view, truth, config, LossConfig(), 1.0)


def assigned(group: Group) -> AssignedQueries:
    (term,) = group.terms
    assert isinstance(term.supervision, Assigned)
    return term.supervision.group


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [[(0, 0), (1, 0)], [(1, 3), (0, 2)]]),
        (3, [[(0, 0), (1, 0), (1, 1)], [(1, 3), (0, 2), (1, 0)]]),
        (11, [[(0, 0), (1, 0), (1, 1), (0, 2), (0, 3), (0, 1), (1, 3), (1, 2), (0, 4), (1, 4)]]),
    ],
    ids=["2", "3", "more than there are"],
)
def test_candidates_by_hand(count: int, expected: list) -> None:
    """A query that is cheap at two layers, as query 0 is for A, is chosen twice."""
    chosen = candidates(COST, torch.tensor([[True, True]]), count)
    assert [listed(chosen, item) for item in range(len(expected))] == expected


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 4)),
    count=st.integers(1, 3),
    rivals=st.integers(1, 4),
)
def test_rivals_equal_sorting(seed: int, sizes: tuple[int, int, int], count: int, rivals: int) -> None:
    """Of two images, some of whose objects are padding, which takes no query from the others."""
    layers, queries, objects = sizes
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(layers, 2, queries, objects, generator=generator)
    valid = torch.rand(2, objects, generator=generator) < 0.7
    first, others = candidates_and_rivals(cost, valid, count, rivals)
    for image in range(2):
        real = valid[image].nonzero().flatten().tolist()
        best = {
            item: sorted(
                (min((cost[at, image, q, item].item(), at) for at in range(layers)), q) for q in range(queries)
            )
            for item in real
        }
        order = {item: [(layer, query) for (_, layer), query in best[item]] for item in real}
        taken = {query for item in real for _, query in order[item][:count]}
        for item in range(objects):
            mine = order.get(item, [])
            wanted = [at for at in mine if at[1] not in taken][:rivals]
            assert [at for at in listed(first, item, image) if at] == mine[:count]
            assert listed(others, item, image) == wanted + [None] * (min(rivals, queries) - len(wanted))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rivals", [0, 2])
def test_auxiliary_group_holds_contents_boxes_positions_and_objects(variant: str, rivals: int) -> None:
    """Each query is what its candidate or rival was, the first candidates of both objects with all rivals before the
    second ones with all rivals; queries of padded objects are padding and have no object."""
    student, batch = small_detector(variant), small_batch((2, 0))
    for head in student.decoder.heads:  # or every box would be its anchor, as it is at first
        torch.nn.init.normal_(head.boxes.layers[-1].weight, std=0.5)
    task = DistillationTask(student, 10)
    view, detector = viewed(task, batch), task.teacher.detector
    group = assigned(group_of(task, view, batch.truth, AuxiliaryConfig(rivals=rivals)))
    queries, count = group.queries, 4 * (1 + rivals)
    assert group.repeats == 2
    assert group.assignment.tolist() == [[0, 1, *[-1] * 2 * rivals] * 2, [-1] * count]
    assert queries.padding.tolist() == [[False] * count, [True] * count]
    if rivals:
        first, others = candidates_and_rivals(view.cost, batch.truth.valid, 2, rivals)
        rows = [row for rank in range(2) for row in ((first, rank), *((others, rival) for rival in range(rivals)))]
        half = torch.arange(count) < count // 2
        assert queries.attention_mask.equal(half[:, None] != half)
    else:
        rows = [(candidates(view.cost, batch.truth.valid, 2), rank) for rank in range(2)]
        assert queries.attention_mask is None
    for place in range(count):
        (chosen, rank), item = rows[place // 2], place % 2
        query = chosen.query[0, rank, item]
        at = (chosen.layer[0, rank, item], 0, query)
        assert queries.content[0, place].equal(view.predictions.content[at])
        box = view.predictions.boxes[at]
        assert queries.anchors[0, place].equal(box[:2] if variant in ("plain", "refine") else box)
        assert queries.identity[0, place] == view.queries.identity[0, query]
        if variant in ("dab", "dino"):
            assert queries.position is None
            continue
        learned = view.queries.position[0, query]
        if variant == "two_stage":
            expected = detector.query_source.position(queries.anchors, queries.position)[0, place]
            torch.testing.assert_close(queries.position[0, place], expected)
            assert not expected.allclose(learned)
        else:
            assert queries.position[0, place].equal(learned)
    assert not queries.content.requires_grad


def test_missing_rivals_are_padding() -> None:
    """Two queries. One object: two candidates, no rival left. With one candidate: one rival."""
    task, batch = DistillationTask(small_detector("refine", num_queries=2), 10), small_batch((1, 1))
    view = viewed(task, batch)
    for config, padding, objects in (
        (AuxiliaryConfig(candidates=2, rivals=1), [False, True] * 2, [0, -1] * 2),
        (AuxiliaryConfig(candidates=1, rivals=3), [False, False, True], [0, -1, -1]),
    ):
        group = assigned(group_of(task, view, batch.truth, config))
        assert group.queries.padding.tolist() == [padding] * 2
        assert group.assignment.tolist() == [objects] * 2
        assert group.repeats == config.candidates


@pytest.mark.parametrize(("limit", "queries", "rivals"), [(32, 6, 3), (31, 6, 2), (23, 6, 1), (1, 6, 0), (1, 12, 2)])
def test_large_group_has_fewer_rivals_but_all_candidates(
    limit: int, queries: int, rivals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two candidates of each of four objects: with r of the three rivals the group has 8 (1 + r) queries, at most the
    limit or twice the detector's own."""
    monkeypatch.setattr("oddetr.distillation.auxiliary.MOST_QUERIES", limit)
    task, batch = DistillationTask(small_detector(num_queries=queries), 10), small_batch((4, 1))
    group = assigned(group_of(task, viewed(task, batch), batch.truth, AuxiliaryConfig(rivals=3)))
    assert group.assignment[0].tolist() == [0, 1, 2, 3, *[-1] * 4 * rivals] * 2
    assert group.assignment[1].tolist() == [0, *[-1] * (3 + 4 * rivals)] * 2
    assert group.repeats == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_sub_groups_do_not_attend_to_one_another(variant: str) -> None:
    task, batch = DistillationTask(small_detector(variant, num_queries=9), 10), small_batch((2, 1))
    memory = task.student.encode(batch.images, batch.padding_mask)
    queries = group_of(task, viewed(task, batch), batch.truth, AuxiliaryConfig()).queries
    parts = {"0": part_of(queries, 0, 8), "8": part_of(queries, 8, 16), "bare": part_of(queries, 0, 2)}
    found = task.student.decode(memory, {"auxiliary": queries} | parts)
    real = ~queries.padding
    for name in ("logits", "boxes"):
        together = getattr(found["auxiliary"], name)
        alone = torch.cat([getattr(found["0"], name), getattr(found["8"], name)], dim=2)
        torch.testing.assert_close(together[:, real], alone[:, real], atol=1e-6, rtol=1e-6)
    assert not found["bare"].logits[:, 0].allclose(found["0"].logits[:, 0, :2], atol=1e-5)


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_loss_ignores_padded_objects(variant: str) -> None:
    batch, task = small_batch((2, 1)), DistillationTask(small_detector(variant), 10)
    found: list[dict[str, torch.Tensor]] = []
    for each in (batch, dataclasses.replace(batch, truth=padded(batch.truth, 3))):
        torch.manual_seed(0)
        found.append(task(each))
    first, second = found
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=1e-5)
