"""From examples to batches: an item depends on its key alone, the order on the epoch alone.

So neither depends on the number of workers, on what was drawn before, or on where a run was resumed: every item seeds
torch's generator from its key.
"""

import gc
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import DataLoader, Dataset, Sampler

from oddetr.data.dataset import Source
from oddetr.data.images import ImageError
from oddetr.data.repeats import Factors, drawn, epoch_length
from oddetr.data.transforms import EvalTransform, Example
from oddetr.structures import Batch, GroundTruth

_GUARD = re.compile(r"^if\s+.*__name__.*:", re.MULTILINE)
Key = tuple[int, int]
"""(epoch, index)."""
WINDOW = 32
"""Batches among which images of one aspect ratio are brought together: enough for alike batches, and few enough that
batches stay random."""


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers >= 0."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TransformedDataset(Dataset[Example]):
    """Examples by (epoch, index); `transform` draws from torch's global generator only."""

    def __init__(self, source: Source, transform: EvalTransform, seed: int = 0) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Example:
        """A function of (seed, epoch, index); leaves torch's generator as it was. Indices from the number of images on
        are repeats, see `drawn`, which vary apart."""
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, epoch, index))
            return self.example(epoch, index % len(self))

    def example(self, epoch: int, index: int) -> Example:
        """Make an example; torch's generator is seeded already."""
        return self.transform(self.source.sample(index, epoch, self.transform.detail))

    def __getitems__(self, keys: list[Key]) -> list[Example] | ImageError:
        """The examples of a batch, or the error of an image that cannot be read, which `AccumulatedLoader` raises:
        raised in a loading process, it would reach the user as that process's traceback."""
        try:
            return [self[key] for key in keys]
        except ImageError as error:
            return error


class EpochSampler(Sampler[Key]):
    """The keys of one epoch that fall to this rank; each image falls to exactly one.

    With `shuffle` (training) the order is a permutation by (seed, epoch), and all ranks get the same number of batches:
    where the last would be missing on some, these get one more image, from the start of the permutation. Without
    (evaluation) the order is the source's, and ranks may differ by one in number.

    Args:
        rank: this process, 0..world_size-1.
        batch_size: keys that make a batch, >= 1.
        factors: how often each image is seen in an epoch, with `shuffle`; default: once.
        aspects: width over height of each image. With `shuffle`, images that are alike in it come into a batch, which
            is padded less then.

    Raises:
        ValueError: there is no image or no such rank.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        factors: Factors | None = None,
        aspects: Float[np.ndarray, " images"] | None = None,
    ) -> None:
        length = length if factors is None else epoch_length(factors)
        if length < 1 or not 0 <= rank < world_size:
            raise ValueError(f"Cannot share {length} images among {world_size} processes as process {rank}.")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size, self.batch_size, self.factors = rank, world_size, batch_size, factors
        self.aspects = aspects
        self.epoch = 0
        self.done = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iterations."""
        self.epoch = epoch

    def skip(self, keys: int) -> None:
        """Leaves out the first `keys` keys of the next iteration."""
        self.done = keys

    def __len__(self) -> int:
        own, most = len(range(self.rank, self.length, self.world_size)), math.ceil(self.length / self.world_size)
        fewer = math.ceil(own / self.batch_size) < math.ceil(most / self.batch_size)
        return most if self.shuffle and fewer else own

    def __iter__(self) -> Iterator[Key]:
        epoch, done, self.done = self.epoch, self.done, 0
        order = list(range(self.length))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            if self.factors is None:
                order = torch.randperm(self.length, generator=generator).tolist()
            else:
                order = drawn(self.factors, generator)
            if self.aspects is not None:
                order = _alike(order, self.aspects, self.batch_size * self.world_size, generator)
        for step in range(done, len(self)):
            yield epoch, order[(self.rank + step * self.world_size) % self.length]


def _alike(
    order: list[int], aspects: Float[np.ndarray, " images"], batch: int, generator: torch.Generator
) -> list[int]:
    """Sort every `WINDOW` batches by aspect ratio, and shuffle these batches; the incomplete last one stays last."""
    found: list[int] = []
    for start in range(0, len(order), WINDOW * batch):
        part = order[start : start + WINDOW * batch]
        whole = len(part) // batch
        alike = sorted(part[: whole * batch], key=lambda index: aspects[index % len(aspects)])
        for place in torch.randperm(whole, generator=generator).tolist():
            found += alike[place * batch : (place + 1) * batch]
        found += part[whole * batch :]
    return found


def collate(examples: list[Example], multiple: int = 1) -> Batch:
    """Pads images at the right and the bottom to the largest height and width among them (B >= 1), rounded up to a
    `multiple` in pixels."""
    largest = (max(example.image.shape[axis] for example in examples) for axis in (1, 2))
    height, width = (multiple * math.ceil(side / multiple) for side in largest)
    images = torch.zeros(len(examples), 3, height, width)
    padding_mask = torch.ones(len(examples), height, width, dtype=torch.bool)
    for index, example in enumerate(examples):
        rows, columns = example.image.shape[1:]
        images[index, :, :rows, :columns] = example.image
        padding_mask[index, :rows, :columns] = False
    return Batch(
        images=images,
        padding_mask=padding_mask,
        truth=GroundTruth.stack([example.labels for example in examples], [example.boxes for example in examples]),
        image_ids=tuple(example.image_id for example in examples),
        original_sizes=torch.tensor([example.original_size for example in examples]),
    )


class AccumulatedLoader:
    """Batches in groups of `parts` that make one optimizer step together, each with the group's number of objects.

    Losses divide by that number, so gradients accumulated over the group equal those of one large batch. Reads a group
    ahead. The last group may be shorter. With one part, batches pass unchanged.

    Raises:
        ValueError: `parts` is below 1.
        ImageError: an image cannot be read; when its batch is reached.
    """

    def __init__(self, loader: DataLoader[Any], parts: int) -> None:
        if parts < 1:
            raise ValueError(f"An optimizer step needs at least 1 batch, not {parts}.")
        self.loader = loader
        self.parts = parts
        self.dataset = loader.dataset
        self.sampler: Any = loader.sampler
        self.batch_sampler = loader.batch_sampler

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iterations."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.loader)

    def skip(self, batches: int) -> None:
        """Leaves out the first `batches` batches of the next iteration, which are not read."""
        self.sampler.skip(batches * (self.loader.batch_size or 1))

    def __iter__(self) -> Iterator[Batch]:
        group: list[Batch] = []
        for batch in self.loader:
            if isinstance(batch, ImageError):
                raise batch
            group.append(batch)
            if len(group) == self.parts:
                yield from self._counted(group)
                group = []
        yield from self._counted(group)

    def _counted(self, group: list[Batch]) -> list[Batch]:
        objects = sum(batch.truth.total for batch in group)
        return group if self.parts == 1 else [replace(batch, step_objects=objects) for batch in group]


def make_loader(
    dataset: TransformedDataset,
    sampler: Sampler[Key],
    batch_size: int,
    workers: int = 0,
    parts: int = 1,
    pad_to: int = 1,
) -> AccumulatedLoader:
    """Batches of a data set in the sampler's order; the last may be smaller.

    Worker processes run torch with one thread each (torch's default there), live as long as the loader, and give pinned
    memory where there is a CUDA device.

    Args:
        batch_size: images per batch on this process.
        parts: batches to an optimizer step, see `AccumulatedLoader`.
        pad_to: pixels to a multiple of which batches are padded, see `collate`.
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(_collate_examples, multiple=pad_to),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_detach_worker,
        generator=torch.Generator(),  # the loader draws a seed per epoch: not from the generator that dropout uses
    )
    return AccumulatedLoader(loader, parts)


def unguarded_script() -> str | None:
    """The running script, if loading processes cannot start from it.

    Where processes start anew (Windows, macOS), each runs the script again, up to `if __name__ == "__main__":`. Without
    this line each would train, too.
    """
    file = getattr(sys.modules["__main__"], "__file__", None)
    if multiprocessing.get_start_method() == "fork" or file is None:
        return None
    try:
        source = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if _GUARD.search(source) else file


@contextmanager
def shared_with_workers() -> Generator[None]:
    """Excludes the objects that exist on entry from garbage collection, until the exit.

    Loading processes that start inside share the memory of this one until either writes to it. A collection writes to
    every object that it visits, so each process would end with a copy of all of Python's objects.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _collate_examples(examples: list[Example] | ImageError, multiple: int) -> Batch | ImageError:
    return examples if isinstance(examples, ImageError) else collate(examples, multiple)


def _detach_worker(_: int) -> None:
    """Keeps a loading process from the signals that are meant for the command, and ends it with its parent.

    A terminal sends Ctrl-C to all processes of a command, a batch system SIGTERM to its process group; the first
    process ends the others when it has saved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
