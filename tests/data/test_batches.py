"""Items depend on their key alone, orders on the epoch alone, and padding is marked."""

import gc
import math
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
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
    unguarded_script,
)
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import Example, TrainTransform
from oddetr.structures import Batch

ROLLUP = Path("/proc/self/smaps_rollup")
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def digits(seed: int = 0, length: int = 22) -> TransformedDataset:
    source = DigitScenes("train", length=length, size=64, fresh=True)
    return TransformedDataset(source, TrainTransform(64, **PLAIN, flippable=True), seed)


def loader(batch_size: int = 4, workers: int = 0, parts: int = 1) -> AccumulatedLoader:
    return make_loader(digits(), EpochSampler(22), batch_size, workers, parts)


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
        and (one.image_ids, one.step_objects) == (other.image_ids, other.step_objects)
    )


def test_items_depend_on_their_key_alone_and_leave_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("it seeds the devices"))
    one, other = digits(), digits()
    forwards = [one[2, index] for index in range(5)]
    torch.rand(7)
    state = torch.get_rng_state()
    backwards = [other[2, index] for index in reversed(range(5))][::-1]
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(forwards, backwards, strict=True):
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.boxes, second.boxes)
    base = one[0, 0].image
    for item in (one[1, 0], one[0, 1], digits(seed=1)[0, 0]):
        assert item.image.shape != base.shape or not torch.equal(item.image, base)


@given(
    length=st.integers(1, 50),
    world=st.integers(1, 7),
    size=st.integers(1, 6),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_ranks_cover_all_images_and_no_image_comes_twice_but_to_fill_a_batch(
    length: int, world: int, size: int, epoch: int, shuffle: bool
) -> None:
    ranks = [EpochSampler(length, 3, shuffle, rank, world, size) for rank in range(world)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    keys = [list(sampler) for sampler in ranks]
    assert [len(part) for part in keys] == [len(sampler) for sampler in ranks]
    assert {epoch_of for part in keys for epoch_of, _ in part} <= {epoch}
    counts = Counter(index for part in keys for _, index in part)
    assert set(counts) == set(range(length))
    needed = math.ceil(length / world / size)
    missing = sum(math.ceil(len(range(rank, length, world)) / size) != needed for rank in range(world))
    assert sum(counts.values()) - length == (missing if shuffle else 0)
    if shuffle:
        assert {math.ceil(len(part) / size) for part in keys} == {needed}


def test_the_order_depends_on_seed_and_epoch() -> None:
    sampler = EpochSampler(30, seed=5)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([index for _, index in sampler])
    assert orders[0] == orders[2] != orders[1]
    assert [index for _, index in EpochSampler(30, seed=6)] != orders[0]


def test_images_of_one_shape_come_into_a_batch_on_every_rank() -> None:
    """Of 43 images, every second is twice as wide as high; on two ranks a step has eight, and three are left over."""
    aspects = np.tile([1.0, 2.0], 22)[:43]
    ranks = [EpochSampler(43, 3, True, rank, 2, 4, aspects=aspects) for rank in (0, 1)]
    orders = [[index for _, index in sampler] for sampler in ranks]
    assert set(orders[0]) | set(orders[1]) == set(range(43))
    mixed = [
        len({aspects[index] for order in orders for index in order[start : start + 4]}) > 1 for start in range(0, 20, 4)
    ]
    assert sum(mixed) == 1
    assert orders[0] == [index for _, index in ranks[0]]
    ranks[0].set_epoch(1)
    assert orders[0] != [index for _, index in ranks[0]]


def test_batches_of_one_shape_come_in_a_random_order() -> None:
    """Of 64 batches, 32 of each shape: the first 32 are neither sorted nor all of one shape."""
    aspects = np.repeat([1.0, 2.0], 128)
    order = [index for _, index in EpochSampler(256, 5, batch_size=4, aspects=aspects)]
    wide = [aspects[index] == 2.0 for index in order[:128:4]]
    assert 8 < sum(wide) < 24
    assert wide != sorted(wide)
    assert wide != sorted(wide, reverse=True)


@pytest.mark.parametrize("arguments", [(0, 0, True, 0, 1), (5, 0, True, 2, 2), (5, 0, True, -1, 2)])
def test_impossible_ranks_are_refused(arguments: tuple[int, int, bool, int, int]) -> None:
    with pytest.raises(ValueError, match="Cannot share"):
        EpochSampler(*arguments)


def test_collate_pads_right_and_bottom() -> None:
    examples = [example(4, 6, 2, 7), example(5, 3, 0, 8), example(1, 1, 3, 9)]
    batch = collate(examples)
    assert batch.images.shape == (3, 3, 5, 6)
    for index, one in enumerate(examples):
        rows, columns = one.image.shape[1:]
        assert torch.equal(batch.images[index, :, :rows, :columns], one.image)
        assert (~batch.padding_mask[index]).sum() == rows * columns
        assert (batch.images[index].sum(dim=0) == 0).equal(batch.padding_mask[index])
        assert torch.equal(batch.truth.boxes[index, : len(one.boxes)], one.boxes)
    assert (batch.truth.counts, batch.image_ids, batch.step_objects) == ((2, 0, 3), (7, 8, 9), None)
    assert batch.original_sizes.tolist() == [[8, 12], [10, 6], [2, 2]]


def test_collate_pads_to_a_multiple_without_another_change() -> None:
    examples = [example(40, 130, 2), example(64, 10, 1)]
    tight, loose = collate(examples), collate(examples, multiple=64)
    assert (tight.images.shape[2:], loose.images.shape[2:]) == ((64, 130), (64, 192))
    assert loose.images[..., :130].equal(tight.images)
    assert loose.padding_mask[..., :130].equal(tight.padding_mask)
    assert not loose.images[..., 130:].any()
    assert loose.padding_mask[..., 130:].all()


def test_batches_padded_to_a_multiple_have_few_shapes() -> None:
    """Four for sides from 100 to 192 pixels, whatever the images."""
    generator = np.random.default_rng(0)
    pairs = [[example(*generator.integers(100, 193, 2).tolist(), 1) for _ in range(2)] for _ in range(50)]
    tight, loose = ({collate(pair, multiple).images.shape for pair in pairs} for multiple in (1, 64))
    assert len(tight) > 40
    assert loose == {(2, 3, height, width) for height in (128, 192) for width in (128, 192)}


def test_batches_of_a_step_carry_its_number_of_objects() -> None:
    state = torch.get_rng_state()
    plain = list(loader())
    assert torch.equal(torch.get_rng_state(), state), "the loader draws from the global generator"
    assert [len(batch.image_ids) for batch in plain] == [4, 4, 4, 4, 4, 2]
    assert all(batch.step_objects is None for batch in plain)
    for parts in (2, 4):
        batches = list(loader(parts=parts))
        assert len(batches) == len(loader(parts=parts)) == 6
        for index, (batch, bare) in enumerate(zip(batches, plain, strict=True)):
            group = plain[index // parts * parts : (index // parts + 1) * parts]
            assert torch.equal(batch.images, bare.images)
            assert batch.step_objects == sum(each.truth.total for each in group)
    with pytest.raises(ValueError, match="at least 1"):
        loader(parts=0)


def test_batches_are_equal_with_any_number_of_workers_and_differ_by_epoch() -> None:
    alone, helped = loader(parts=2), loader(workers=2, parts=2)
    assert alone.batch_sampler.sampler is alone.sampler
    orders = []
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        pairs = list(zip(alone, helped, strict=True))
        assert len(pairs) == 6
        assert all(equal(one, other) for one, other in pairs)
        orders.append([one.image_ids for one, _ in pairs])
    assert orders[0] != orders[1]


ABANDONED = """
from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
from oddetr.data.digits import DigitScenes
from oddetr.data.transforms import EvalTransform

data = TransformedDataset(DigitScenes("train", 22), EvalTransform(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
batches = iter(make_loader(data, EpochSampler(22), batch_size=2, workers=1))
next(batches)
raise SystemExit(3)
"""


@pytest.mark.slow
def test_a_process_that_ends_within_an_epoch_does_not_wait_for_its_workers() -> None:
    """They ignore the signal by which multiprocessing would end them."""
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def private_bytes() -> int:
    """Memory that this process has written and shares with no other."""
    return int(ROLLUP.read_text().split("\nPrivate_Dirty:")[1].split()[0]) * 1024


def copied_by_a_collection(within: AbstractContextManager[None]) -> int:
    """Bytes that this process had shared with a loading process, and that a garbage collection copied."""
    objects = [[number] for number in range(300_000)]  # 17 MB
    with within:
        batches = iter(loader(workers=1))
        next(batches)
        before = private_bytes()
        gc.collect()
        after = private_bytes()
    assert len(objects) == 300_000
    return after - before


@pytest.mark.skipif(not ROLLUP.exists(), reason="only Linux tells what processes share")
def test_a_collection_copies_nothing_that_workers_share() -> None:
    assert copied_by_a_collection(nullcontext()) > 10e6
    assert copied_by_a_collection(shared_with_workers()) < 3e6


def test_an_error_ends_the_exclusion_from_collection() -> None:
    frozen = []

    def interrupted() -> None:
        with shared_with_workers():
            frozen.append(gc.get_freeze_count())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("source", "method", "is_unguarded"),
    [
        ("import oddetr\n", "spawn", True),
        ("import oddetr\n", "fork", False),
        ('if __name__ == "__main__":\n    pass\n', "spawn", False),
        ("if '__main__' == __name__:\n    pass\n", "forkserver", False),
    ],
)
def test_a_script_without_the_main_guard_is_found_where_processes_start_anew(
    source: str, method: str, is_unguarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(source)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: method)

    assert (unguarded_script() == str(script)) == is_unguarded
