import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.evaluation.instability import Instability, Matching, changed_queries, instability, matched_queries

QUERIES, LAYERS = 5, 3
COUNTS = st.lists(st.integers(0, 7), min_size=1, max_size=4)
"""Objects of each image: none, few, more than queries."""
SEEDS = st.integers(0, 10**6)


def one_image(*layers: list[int]) -> Matching:
    """The queries of an image's objects, layer by layer."""
    return Matching.of({1: np.array(layers, np.int64)})


def random_matching(seed: int, counts: list[int]) -> Matching:
    """Each object of an image gets another query, as long as there are any."""
    generator = np.random.default_rng(seed)
    images: dict[int, np.ndarray] = {}
    for image, count in enumerate(counts):
        images[image] = np.full((LAYERS, count), -1)
        for layer in images[image]:
            matched = min(count, QUERIES)
            layer[generator.permutation(count)[:matched]] = generator.permutation(QUERIES)[:matched]
    return Matching.of(images)


def dense(matching: Matching) -> np.ndarray:
    """DN-DETR's V [layers, images, queries], as the paper defines it: the object of each query, or -1."""
    v = np.full((LAYERS, len(matching.counts), QUERIES), -1)
    starts = np.cumsum(matching.counts) - matching.counts
    for layer in range(LAYERS):
        for image, (start, count) in enumerate(zip(starts, matching.counts, strict=True)):
            for item in range(count):
                query = matching.queries[layer, start + item]
                if query >= 0:
                    v[layer, image, query] = item
    return v


@pytest.mark.parametrize(
    ("now", "changed"),
    [([0, 1], 0), ([2, 1], 2), ([1, 0], 2), ([1, 2], 3), ([2, 3], 4), ([0, -1], 1), ([-1, 0], 2), ([-1, -1], 2)],
)
def test_changed_queries_by_hand(now: list[int], changed: int) -> None:
    assert changed_queries(one_image([0, 1]), one_image(now)).tolist() == [changed]
    assert changed_queries(one_image(now), one_image([0, 1])).tolist() == [changed]


def test_instability_by_hand() -> None:
    """Three images with 2, 0 and 1 objects, two layers.

    First layer: 0, 1 -> 1, 0 changes 2 queries, 4 -> 4 none: IS 2 / 3 images, of 2 * 3 objects. Second layer: 0, 1 ->
    2, 3 changes 4, 4 -> 5 two: 6 / 3 images. Between the layers all 3 objects of `now` change their query.
    """
    before = Matching.of(
        {7: np.array([[0, 1], [0, 1]]), 3: np.zeros((2, 0), np.int64), 5: np.array([[4], [4]], np.int64)}
    )
    now = Matching.of({7: np.array([[1, 0], [2, 3]]), 3: np.zeros((2, 0), np.int64), 5: np.array([[4], [5]], np.int64)})
    assert now.image_ids.tolist() == [3, 5, 7]
    assert now.counts.tolist() == [0, 1, 2]
    assert now.queries.tolist() == [[4, 1, 0], [5, 2, 3]]
    found = instability(now, before)
    assert found == Instability(raw=(2 / 3, 2.0), normalised=(2 / 6, 1.0), unstable_score=(1.0,))


def test_unstable_score_by_hand() -> None:
    """Of two objects the second changes its query after the first layer."""
    found = instability(one_image([0, 1], [0, 2], [0, 2]), None)
    assert found == Instability(raw=None, normalised=None, unstable_score=(0.5, 0.0))
    assert found.to_json() == {"instability": None, "normalised_instability": None, "unstable_score": [0.5, 0.0]}


def test_instability_needs_the_same_images_and_objects() -> None:
    now = one_image([0, 1])
    for before in (Matching.of({2: np.array([[0, 1]])}), one_image([0]), one_image([0, 1], [0, 1])):
        assert instability(now, before).raw is None


def test_instability_without_objects_is_null() -> None:
    nothing = Matching.of({1: np.zeros((2, 0), np.int64), 2: np.zeros((2, 0), np.int64)})
    found = instability(nothing, nothing)
    assert found.raw is not None
    assert found.normalised is not None
    assert all(map(math.isnan, found.raw + found.normalised + found.unstable_score))
    assert json.dumps(found.to_json()) == (
        '{"instability": [null, null], "normalised_instability": [null, null], "unstable_score": [null]}'
    )


@settings(max_examples=20)
@given(seed=SEEDS, counts=COUNTS)
def test_changed_queries_of_random_matchings_equal_the_definition(seed: int, counts: list[int]) -> None:
    """0 for equal ones, symmetric, at most 2 x objects, and independent of the queries' names."""
    before, now = random_matching(seed, counts), random_matching(seed + 1, counts)
    changed = changed_queries(before, now)
    assert (changed == (dense(before) != dense(now)).sum(axis=(1, 2))).all()
    assert (changed_queries(now, now) == 0).all()
    assert (changed_queries(now, before) == changed).all()
    assert (changed <= 2 * sum(counts)).all()
    names = np.append(np.random.default_rng(seed).permutation(10**6)[:QUERIES], -1)
    renamed = [Matching(each.image_ids, each.counts, names[each.queries]) for each in (before, now)]
    assert (changed_queries(*renamed) == changed).all()
    raw = instability(now, before).raw
    assert raw is not None
    np.testing.assert_allclose(np.array(raw) * len(counts), changed if sum(counts) else math.nan)


def test_matched_queries_by_hand() -> None:
    """Two layers, three queries, images with 2, 0 and 1 objects; each image's queries have identities of their own."""
    assignment = torch.tensor([[[1, -1, 0], [-1, -1, -1], [-1, 0, -1]], [[-1, 0, 1], [-1, -1, -1], [0, -1, -1]]])
    identity = torch.tensor([[50, 60, 70], [51, 61, 71], [52, 62, 72]])
    found = matched_queries(assignment, identity, (2, 0, 1))
    assert [each.tolist() for each in found] == [[[70, 50], [60, 70]], [[], []], [[62], [52]]]
    (few,) = matched_queries(torch.tensor([[[3, 1]]]), torch.tensor([[8, 9]]), (4,))
    assert few.tolist() == [[-1, 9, -1, 8]]


def test_matching_survives_saving_and_loading(tmp_path) -> None:
    matching = random_matching(0, [3, 0, 7])
    torch.save(matching.state(), tmp_path / "state.pt")
    again = Matching.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(np.array_equal(value, getattr(again, name)) for name, value in vars(matching).items())
