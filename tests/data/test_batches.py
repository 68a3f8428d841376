"""Items depend on their key alone, orders on the epoch alone, and padding is marked."""

import gc
import math
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oddetr.data.batches import (
    AccumulatedLoader,
    EpochSampler,
    TransformedDataset,
    collate,
    make_loader,
    shared_with_workers,
)
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import Example, TrainTransform
from oddetr.structures import Batch

ROLLUP = Path("/proc/self/smaps_rollup")
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def digits(seed: int = 0, length: int = 22) -> TransformedDataset:
    source = DigitScenes("train", length=length, size=64, fresh=True)
    return TransformedDataset(source, TrainTransform(64, **PLAIN, flippable=True), seed)


def example(height: int, width: int, objects: int, image_id: int = 0) -> Example:
    return Example(
        image=torch.rand(3, height, width) + 1,
        boxes=torch.rand(objects, 4),
        labels=torch.arange(objects),
        image_id=image_id,
        original_size=(2 * height, 2 * width),
    )


def equal(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.truth.boxes, other.truth.boxes)
        and torch.equal(one.truth.labels, other.truth.labels)
        and one.image_ids == other.image_ids
        and one.step_objects == other.step_objects
    )


def test_dataset_when_order_differs_then_items_are_equal() -> None:
    one, other = digits(), digits()
    forwards = [one[2, index] for index in range(5)]
    torch.rand(7)
    backwards = [other[2, index] for index in reversed(range(5))][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.boxes, second.boxes)


def test_dataset_when_key_or_seed_differs_then_items_differ() -> None:
    base = digits()[0, 0].image
    for item in (digits()[1, 0], digits()[0, 1], digits(seed=1)[0, 0]):
        assert item.image.shape != base.shape or not torch.equal(item.image, base)


def test_dataset_when_read_then_leaves_the_generator_alone() -> None:
    data = digits()
    state = torch.get_rng_state()
    data[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


def test_dataset_when_read_then_leaves_the_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    digits()[0, 0]
    assert not reseeded


@given(length=st.integers(1, 50), world=st.integers(1, 7), epoch=st.integers(0, 5), seed=st.integers(0, 9))
def test_sampler_when_shuffled_then_ranks_are_equally_long_and_cover_everything(
    length: int, world: int, epoch: int, seed: int
) -> None:
    ranks = [EpochSampler(length, seed, rank=rank, world_size=world) for rank in range(world)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    keys = [list(sampler) for sampler in ranks]
    assert {len(part) for part in keys} == {len(ranks[0])} == {-(-length // world)}
    counts = Counter(index for part in keys for _, index in part)
    assert set(counts) == set(range(length))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {epoch_of for part in keys for epoch_of, _ in part} == {epoch}


@given(length=st.integers(1, 50), world=st.integers(1, 7), size=st.integers(1, 6))
def test_sampler_when_batches_are_larger_then_ranks_have_as_many_and_no_image_comes_twice_but_to_fill_a_batch(
    length: int, world: int, size: int
) -> None:
    ranks = [EpochSampler(length, rank=rank, world_size=world, batch_size=size) for rank in range(world)]
    keys = [list(sampler) for sampler in ranks]
    assert [len(part) for part in keys] == [len(sampler) for sampler in ranks]
    batches = {math.ceil(len(part) / size) for part in keys}
    assert batches == {math.ceil(length / world / size)}
    counts = Counter(index for part in keys for _, index in part)
    assert set(counts) == set(range(length))
    twice = sum(counts.values()) - length
    missing = sum(math.ceil(len(range(rank, length, world)) / size) not in batches for rank in range(world))
    assert twice == missing


@given(length=st.integers(1, 50), world=st.integers(1, 7))
def test_sampler_when_not_shuffled_then_each_image_once_over_all_ranks(length: int, world: int) -> None:
    ranks = [EpochSampler(length, shuffle=False, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(index for sampler in ranks for _, index in sampler) == list(range(length))
    assert all(len(list(sampler)) == len(sampler) for sampler in ranks)


def test_sampler_when_the_epoch_changes_then_the_order_does_and_comes_back() -> None:
    sampler = EpochSampler(30, seed=5)
    first = [index for _, index in sampler]
    sampler.set_epoch(1)
    second = [index for _, index in sampler]
    sampler.set_epoch(0)
    assert first != second
    assert [index for _, index in sampler] == first
    assert [index for _, index in EpochSampler(30, seed=6)] != first


@pytest.mark.parametrize("arguments", [(0, 0, True, 0, 1), (5, 0, True, 2, 2), (5, 0, True, -1, 2)])
def test_sampler_when_arguments_are_wrong_then_says_so(arguments: tuple[int, int, bool, int, int]) -> None:
    with pytest.raises(ValueError, match="Cannot share"):
        EpochSampler(*arguments)


def test_collate_when_sizes_differ_then_pads_right_and_bottom() -> None:
    examples = [example(4, 6, 2, 7), example(5, 3, 0, 8), example(1, 1, 3, 9)]
    batch = collate(examples)
    assert batch.images.shape == (3, 3, 5, 6)
    for index, one in enumerate(examples):
        rows, columns = one.image.shape[1:]
        assert torch.equal(batch.images[index, :, :rows, :columns], one.image)
        assert (~batch.padding_mask[index]).sum() == rows * columns
        assert not batch.padding_mask[index, :rows, :columns].any()
        assert (batch.images[index].sum(dim=0) == 0).equal(batch.padding_mask[index])
        assert torch.equal(batch.truth.boxes[index, : len(one.boxes)], one.boxes)
    assert batch.truth.counts == (2, 0, 3)
    assert batch.image_ids == (7, 8, 9)
    assert batch.original_sizes.tolist() == [[8, 12], [10, 6], [2, 2]]
    assert batch.step_objects is None


@pytest.mark.parametrize("parts", [1, 2, 4, 9])
def test_accumulated_loader_when_grouped_then_stamps_the_groups_objects(parts: int) -> None:
    plain = list(make_loader(digits(), EpochSampler(22), batch_size=4))
    loader = make_loader(digits(), EpochSampler(22), batch_size=4, parts=parts)
    batches = list(loader)
    assert len(batches) == len(loader) == len(plain) == 6
    assert [len(batch.image_ids) for batch in batches] == [4, 4, 4, 4, 4, 2]
    for index, (batch, bare) in enumerate(zip(batches, plain, strict=True)):
        assert torch.equal(batch.images, bare.images)
        group = plain[index // parts * parts : (index // parts + 1) * parts]
        assert batch.step_objects == (None if parts == 1 else sum(each.truth.total for each in group))


def test_accumulated_loader_when_told_the_epoch_then_tells_the_sampler() -> None:
    data, sampler = digits(), EpochSampler(22)
    loader = make_loader(data, sampler, batch_size=4, parts=2)
    assert loader.sampler is sampler
    assert loader.dataset is data
    assert loader.batch_sampler.sampler is sampler
    first = [batch.image_ids for batch in loader]
    loader.set_epoch(3)
    assert sampler.epoch == 3
    assert [batch.image_ids for batch in loader] != first


def test_accumulated_loader_when_no_part_then_says_so() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        AccumulatedLoader(make_loader(digits(), EpochSampler(22), batch_size=4).loader, 0)


def test_loader_when_workers_differ_then_batches_are_equal() -> None:
    alone = make_loader(digits(), EpochSampler(22), batch_size=4, workers=0, parts=2)
    helped = make_loader(digits(), EpochSampler(22), batch_size=4, workers=2, parts=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        pairs = list(zip(alone, helped, strict=True))
        assert len(pairs) == 6
        assert all(equal(one, other) for one, other in pairs)


def test_loader_when_iterated_then_leaves_the_generator_alone() -> None:
    loader = make_loader(digits(), EpochSampler(22), batch_size=4)
    state = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


ABANDONED = """
from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import EvalTransform

data = TransformedDataset(DigitScenes("train", 22), EvalTransform(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
batches = iter(make_loader(data, EpochSampler(22), batch_size=2, workers=1))
next(batches)
raise SystemExit(3)
"""


def test_loader_when_its_process_ends_within_an_epoch_then_does_not_wait_for_workers() -> None:
    """They ignore the signal by which multiprocessing would end them."""
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def private_bytes() -> int:
    """What this process has written and shares with none."""
    return int(ROLLUP.read_text().split("\nPrivate_Dirty:")[1].split()[0]) * 1024


def copied_by_a_collection(within: AbstractContextManager[None]) -> int:
    """Bytes of this process that it had shared with a loading process, and a collection of its garbage copied."""
    objects = [[number] for number in range(300_000)]  # 17 MB
    with within:
        batches = iter(make_loader(digits(), EpochSampler(22), batch_size=4, workers=1))
        next(batches)
        before = private_bytes()
        gc.collect()
        after = private_bytes()
    assert len(objects) == 300_000
    return after - before


@pytest.mark.skipif(not ROLLUP.exists(), reason="only Linux tells what processes share")
def test_loader_when_begun_within_shared_then_a_collection_copies_nothing_that_workers_share() -> None:
    assert copied_by_a_collection(nullcontext()) > 10e6
    assert copied_by_a_collection(shared_with_workers()) < 3e6


def test_shared_with_workers_when_left_by_an_error_then_nothing_is_kept_from_collection() -> None:
    kept = []

    def interrupted() -> None:
        with shared_with_workers():
            kept.append(gc.get_freeze_count())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert kept[0] > 10_000
    assert gc.get_freeze_count() == 0
