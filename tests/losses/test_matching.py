import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from oddetr.losses.matching import MANY, MatchingWeights, NonFiniteCostError, cheapest, hungarian, matching_cost, solve
from tests.losses.helpers import assign, predicted, random_case, truth_of


def test_cost_by_hand() -> None:
    """p = 0.5 for the class; boxes (.5 .5 .2 .2) and (.5 .5 .4 .4): IoU = GIoU = 1/4, L1 = 0.4.

    f+ = .25 * .25 * ln 2 = 0.04332, f- = .75 * .25 * ln 2 = 0.12996: 2 * (f+ - f-) + 5 * 0.4 - 2 * 0.25 = 1.32671.
    """
    truth, predictions = truth_of([1], [[0.5, 0.5, 0.4, 0.4]]), predicted([[0.5, 0.5, 0.2, 0.2]], classes=2)
    assert matching_cost(predictions, truth, MatchingWeights()).item() == pytest.approx(1.32671, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_hungarian_is_the_cheapest_of_all_permutations(seed: int, counts: list[int]) -> None:
    predictions, truth = random_case(seed, tuple(counts))
    cost = matching_cost(predictions, truth, MatchingWeights())
    (assignment,) = hungarian(cost, counts=truth.counts)
    for layer, image in np.ndindex(2, len(counts)):
        chosen = assignment[layer, image]
        matched = chosen[chosen >= 0]
        assert sorted(matched.tolist()) == list(range(counts[image]))
        total = sum(cost[layer, image, query, chosen[query]].item() for query in range(5) if chosen[query] >= 0)
        best = min(
            (
                sum(cost[layer, image, query, item].item() for item, query in enumerate(order))
                for order in itertools.permutations(range(5), counts[image])
            ),
            default=0.0,
        )
        assert total == pytest.approx(best, abs=1e-4)


def test_every_query_has_one_of_too_many_objects() -> None:
    assignment = assign(*random_case(0, (9,)))
    assert (assignment >= 0).all()
    assert all(len(set(row.tolist())) == 5 for row in assignment.flatten(0, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_hungarian_names_the_images_of_non_finite_costs(value: float) -> None:
    predictions, truth = random_case(0, (2, 2, 0))
    cost = matching_cost(predictions, truth, MatchingWeights())
    cost[0, 0, 1, 1] = cost[1, 2, 0, 0] = value
    with pytest.raises(NonFiniteCostError, match="not finite for image 0, 2 of the batch") as caught:
        hungarian(cost, counts=truth.counts)
    assert caught.value.images == (0, 2)


def test_solve_names_bad_images_and_solves_the_others() -> None:
    predictions, truth = random_case(0, (2, 2, 1))
    cost = matching_cost(predictions, truth, MatchingWeights())
    (expected,) = hungarian(cost, counts=truth.counts)
    first, second = cost.clone(), cost.clone()
    first[0, 0, 0, 0], second[1, 1, 0, 0] = float("nan"), float("inf")
    found = solve([first, second], truth.counts)
    assert found.bad == (0, 1)
    for assignment, image in zip(found.assignments, (0, 1), strict=True):
        assert (assignment[:, image] == -1).all()
        others = [index for index in range(3) if index != image]
        assert assignment[:, others].equal(expected[:, others])


def test_repeated_objects_by_hand() -> None:
    """Five queries, two repeats of two objects: the cheapest four places are taken, query 4 has none. The second image
    has one object (two of the five), the third none; the fourth's costs are NaN. The same costs once: one query each.
    Three queries for two objects six times: all have one."""
    cost = torch.tensor([[3.0, 9], [1, 9], [2, 1], [9, 2], [9, 9]]).repeat(1, 4, 1, 1)
    cost[0, 3, 1, 1] = math.nan
    few = torch.tensor([[1.0, 5], [2, 6], [9, 3]]).expand(2, 4, 3, 2)
    twice, once, sixfold = solve([cost, cost, few], (2, 1, 0, 2), [2, 1, 6]).assignments
    assert twice.tolist() == [[[0, 0, 1, 1, -1], [-1, 0, 0, -1, -1], [-1] * 5, [-1] * 5]]
    assert once.tolist() == [[[-1, 0, 1, -1, -1], [-1, 0, -1, -1, -1], [-1] * 5, [-1] * 5]]
    assert sixfold.tolist() == [[[0, 0, 1], [0, 0, 0], [-1] * 3, [0, 0, 1]]] * 2
    assert solve([few, cost], (2, 1, 0, 2), [6, 2]).bad == (3,)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_queries_of_each_object_give_the_assignment_of_all(seed: int, times: int) -> None:
    """For five objects and fewer, which want the same queries. SciPy sees all of them."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(2, 3, MANY, 1, generator=generator)
    cost = shared + 0.1 * torch.rand(2, 3, MANY, 5, generator=generator)
    counts = (5, 0, 2)
    (found,) = solve([cost], counts, [times]).assignments
    for layer, image in itertools.product(range(2), range(3)):
        expected = torch.full((MANY,), -1)
        queries, objects = linear_sum_assignment(cost[layer, image, :, : counts[image]].repeat_interleave(times, 1))
        expected[queries] = torch.from_numpy(objects // times)
        assert found[layer, image].equal(expected)


def test_a_bad_cost_is_noticed_among_many_queries() -> None:
    cost = torch.rand(1, 2, MANY, 5)
    cost[0, 1, 17] = torch.nan
    assert solve([cost], (5, 0)).bad == (1,)


@pytest.mark.parametrize("part", ["logits", "boxes"])
def test_nan_in_an_image_without_objects_is_caught(part: str) -> None:
    predictions, truth = random_case(0, (2, 0))
    getattr(predictions, part)[1, 1, 3, 2] = float("nan")
    with pytest.raises(NonFiniteCostError, match="image 1 of the batch"):
        assign(predictions, truth)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_cheapest_equals_sorting(seed: int, count: int) -> None:
    cost = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(seed))
    assert cheapest(cost, count).equal(cost.argsort(dim=1)[:, :count])


def giou_of(first: list[float], second: list[float]) -> float:
    """GIoU of two boxes, in numbers."""
    (left, top, right, bottom), other = ((x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (first, second))
    inner = max(0, min(right, other[2]) - max(left, other[0])) * max(0, min(bottom, other[3]) - max(top, other[1]))
    outer = (max(right, other[2]) - min(left, other[0])) * (max(bottom, other[3]) - min(top, other[1]))
    union = first[2] * first[3] + second[2] * second[3] - inner
    return inner / union - (outer - union) / outer


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), modulated=st.booleans())
def test_cost_number_by_number(seed: int, modulated: bool) -> None:
    """Of every layer, image, query and object, with weights that tell the parts apart."""
    predictions, truth = random_case(seed, (3, 0, 2))
    cost = matching_cost(predictions, truth, MatchingWeights(3.0, 0.5, 7.0, modulated))
    assert cost.dtype == torch.float32
    assert cost.shape == (2, 3, 5, 3)
    for layer, image in np.ndindex(2, 3):
        boxes, objects = predictions.boxes[layer, image].tolist(), truth.boxes[image, : truth.counts[image]].tolist()
        giou = [[giou_of(box, item) for item in objects] for box in boxes]
        nearest = max((value + 1) / 2 for row in giou for value in row) if objects else 1.0
        for query, item in itertools.product(range(5), range(len(objects))):
            p = 1 / (1 + math.exp(-predictions.logits[layer, image, query, truth.labels[image, item]].item()))
            if modulated:
                p *= math.sqrt((giou[query][item] + 1) / 2 / nearest)
            classes = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
            l1 = sum(abs(a - b) for a, b in zip(boxes[query], objects[item], strict=True))
            expected = 3 * classes + 0.5 * l1 - 7 * giou[query][item]
            assert cost[layer, image, query, item].item() == pytest.approx(expected, abs=2e-4)


def test_cost_of_a_certain_score_is_finite() -> None:
    """p rounds to 0 and to 1: its logarithm, or that of 1 - p, would be infinite."""
    predictions, truth = random_case(0, (2,))
    logits = torch.full_like(predictions.logits, 200.0)
    for certain in (logits, -logits):
        assert matching_cost(replace(predictions, logits=certain), truth, MatchingWeights()).isfinite().all()


def test_cost_has_no_gradient() -> None:
    predictions, truth = random_case(0, (2,))
    predictions.logits.requires_grad_()
    assert not matching_cost(predictions, truth, MatchingWeights()).requires_grad
