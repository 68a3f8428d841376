"""How much of a training batch is padding, and how many shapes batches have: with images in random order, with those of
one aspect ratio together, and with these padded to a multiple of 64 pixels, as on a GPU.

python benchmarks/padding.py --data coco128 --image-size 320
"""

import argparse
import math

import numpy as np
from rich.console import Console

from oddetr.data.augmentation import training_data
from oddetr.data.batches import EpochSampler
from oddetr.data.sources import open_training_sources
from oddetr.data.transforms import AugmentConfig
from oddetr.training.plan.choice import PAD_TO

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set's folder")
    parser.add_argument("--image-size", type=int, default=320)
    arguments = parser.parse_args()
    sources, _ = open_training_sources(arguments.data, None, 0, Console(quiet=True), True)
    train = sources["train"]
    sizes = train.annotations().sizes
    examples = training_data(train, arguments.image_size, (0.0,) * 3, (1.0,) * 3, AugmentConfig(), 50, 0)
    shapes = {(e, i): examples[(e, i)].image.shape[1:] for e in range(EPOCHS) for i in range(len(train))}
    alike, multiple = sizes[:, 1] / sizes[:, 0], PAD_TO["gpu"]
    orders = {"random order": (None, 1), "by aspect ratio": (alike, 1), f"these, to {multiple} px": (alike, multiple)}
    names = [f"{name}: pixels | shapes" for name in orders]
    print(f"| batch | batches | {' | '.join(names)} |\n| --- | --- |{' --- | --- |' * len(orders)}")
    for batch in (4, 8, 16):
        found: list[str] = []
        for aspects, multiple in orders.values():
            sampler = EpochSampler(len(train), batch_size=batch, aspects=aspects)
            padded = own = 0
            seen: list[tuple[int, int]] = []
            for epoch in range(EPOCHS):
                sampler.set_epoch(epoch)
                keys = list(sampler)
                for start in range(0, len(keys), batch):
                    part = np.array([shapes[key] for key in keys[start : start + batch]])
                    height, width = (multiple * math.ceil(side / multiple) for side in part.max(axis=0).tolist())
                    padded += len(part) * height * width
                    own += part.prod(axis=1).sum()
                    seen.append((height, width))
            found.append(f"{padded / own:.2f} | {len(set(seen))}")
        print(f"| {batch} | {len(seen)} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
