"""Making a training example of a photo: decoded at reduced size, as data sets are read, against the whole.

python benchmarks/reading.py --photo 4000 3000 --image-size 320
"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing
import torch
from PIL import Image

from oddetr.data.batches import TransformedDataset
from oddetr.data.dataset import Annotations, ClassTable, DetectionData
from oddetr.data.transforms import TrainTransform


class Whole(TrainTransform):
    """Wants every pixel."""

    detail = None  # pyright: ignore[reportAssignmentType]


def photo(file: Path, width: int, height: int) -> DetectionData:
    """Noise on soft colours, which takes about as many bytes as a photograph; ten objects."""
    dice = np.random.default_rng(0)
    colours = Image.fromarray(dice.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noisy = pixels + dice.normal(0, 6, pixels.shape).astype(np.float32)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    corners = dice.uniform(0, 0.8, (10, 2)) * [width, height]
    truth = Annotations(
        image_ids=np.array([1]),
        sizes=np.array([[height, width]]),
        offsets=np.array([0, 10]),
        boxes=np.hstack([corners, corners + 0.1 * width]).astype(np.float32),
        labels=np.zeros(10, np.int64),
        areas=np.ones(10, np.float32),
        crowd=np.zeros(10, bool),
        annotation_ids=np.arange(1, 11),
    )
    return DetectionData(file.parent, "train", [file.name], ClassTable(("thing",), (1,)), truth)


def in_each_epoch(data: TransformedDataset) -> Callable[[], object]:
    """The image as another epoch shows it, from call to call."""
    epochs = itertools.count()
    return lambda: data[next(epochs), 0]


def main() -> None:
    parser = timing.parser(__doc__, rounds=15)
    parser.add_argument("--photo", type=int, nargs=2, default=[4000, 3000], help="width and height in pixels")
    parser.add_argument("--image-size", type=int, default=320, help="shorter side at evaluation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    width, height = arguments.photo
    with tempfile.TemporaryDirectory() as folder:
        source = photo(Path(folder) / "photo.jpg", width, height)
        whole, ours = (
            TransformedDataset(source, kind(arguments.image_size, (0.5,) * 3, (0.5,) * 3, flippable=True))
            for kind in (Whole, TrainTransform)
        )
        work = {"ours": in_each_epoch(ours), "theirs": in_each_epoch(whole)}
        times = timing.in_turns(work, arguments.rounds)
    what = f"a training example at {arguments.image_size} px from a JPEG of {width} x {height}"
    row = timing.Row(what, times["ours"], "decoded whole", times["theirs"])
    timing.show([row], arguments.json)


if __name__ == "__main__":
    main()
