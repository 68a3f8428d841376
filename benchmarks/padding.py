"""How much of a training batch is padding, with images in random order and with those of one aspect ratio together.

python benchmarks/padding.py --data coco128 --image-size 320
"""

import argparse

import numpy as np
from rich.console import Console

from oddetr.data.augmentation import training_data
from oddetr.data.batches import EpochSampler
from oddetr.data.sources import open_training_sources
from oddetr.data.transforms import AugmentConfig

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
    print(
        "| batch | pixels over those of the images: random order | by aspect ratio | ratio |\n| --- | --- | --- | --- |"
    )
    for batch in (4, 8, 16):
        found: list[float] = []
        for aspects in (None, sizes[:, 1] / sizes[:, 0]):
            sampler = EpochSampler(len(train), batch_size=batch, aspects=aspects)
            padded = own = 0
            for epoch in range(EPOCHS):
                sampler.set_epoch(epoch)
                keys = list(sampler)
                for start in range(0, len(keys), batch):
                    part = np.array([shapes[key] for key in keys[start : start + batch]])
                    padded += len(part) * part.max(axis=0).prod()
                    own += part.prod(axis=1).sum()
            found.append(padded / own)
        print(f"| {batch} | {found[0]:.2f} | {found[1]:.2f} | {found[1] / found[0]:.2f} |")


if __name__ == "__main__":
    main()
