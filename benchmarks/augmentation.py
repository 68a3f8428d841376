"""Making a training example with strong augmentation, against the default, from JPEGs.

python benchmarks/augmentation.py --photo 640 480 --image-size 320
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import timing
import torch
from reading import photo

from oddetr.data.augmentation import training_data
from oddetr.data.batches import TransformedDataset
from oddetr.data.dataset import DetectionData
from oddetr.data.transforms import AugmentConfig

RT_DETR = {"distort": 0.5, "zoom_out": 0.5, "iou_crop": 0.8}
ARMS = {
    "every image turned": {"rotate": True},
    "every image distorted (0.5)": {"distort": 0.5},
    "every image zoomed out": {"zoom_out": 1.0},
    "every image cropped to an object": {"iou_crop": 1.0},
    "every image a mosaic": {"mosaic": 1.0},
    "every image mixed with another": {"mixup": 1.0},
    "RT-DETR's set": RT_DETR,
    "RT-DETR's set, mosaic and mixup at 0.5": RT_DETR | {"mosaic": 0.5, "mixup": 0.5},
}
PHOTOS = 8


def photos(folder: Path, width: int, height: int) -> DetectionData:
    """Copies of one photo, of which each is read by itself."""
    one = photo(folder / "0.jpg", width, height)
    files = [f"{number}.jpg" for number in range(PHOTOS)]
    for file in files[1:]:
        (folder / file).write_bytes((folder / files[0]).read_bytes())
    truth = replace(one.truth.take(np.zeros(PHOTOS, np.int64)), image_ids=np.arange(PHOTOS))
    return replace(one, files=files, truth=truth)


def ten(data: TransformedDataset) -> Callable[[], object]:
    """Ten examples, other ones from call to call."""
    numbers = itertools.count()
    return lambda: [data[divmod(number, PHOTOS)] for number in itertools.islice(numbers, 10)]


def main() -> None:
    parser = timing.parser(__doc__, rounds=15)
    parser.add_argument("--photo", type=int, nargs=2, default=[640, 480], help="width and height in pixels")
    parser.add_argument("--image-size", type=int, default=320, help="shorter side at evaluation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = photos(Path(folder), *arguments.photo)
        half = (0.5,) * 3
        work = {
            name: ten(training_data(source, arguments.image_size, half, half, AugmentConfig(**values), 1000, seed=0))
            for name, values in {"default": {}, **ARMS}.items()
        }
        times = timing.in_turns(work, arguments.rounds)
    timing.show([timing.Row(name, times[name], "the default", times["default"]) for name in ARMS], arguments.json)


if __name__ == "__main__":
    main()
