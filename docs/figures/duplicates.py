"""Draw `duplicates.png`: the same digit scenes by a two-stage baseline and by OD-DETR.

python docs/figures/duplicates.py runs/proof_two_stage/qfl/seed_10 runs/proof_two_stage/oddetr/seed_10

Both are runs of recipes/compare/proof.yaml. The scenes are the first three of the test split, and what is shown has a
score of 0.3 or more.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from oddetr.data.sources import open_sources
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.predictor import Predictor

SCENES = 3
THRESHOLD = 0.3
SIDE = 280
"""Pixels of a scene in the figure."""
LEFT = 120
"""Pixels for the names of the rows."""


def main(baseline: str, distilled: str) -> None:
    """Write the figure: a row for each run, a column for each scene."""
    source = open_sources("digits")["test"]
    images = [source.sample(index).image for index in range(SCENES)]
    figure = Image.new("RGB", (LEFT + SCENES * SIDE, 2 * SIDE), "white")
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(20)
    for row, (name, run) in enumerate({"baseline": baseline, "OD-DETR": distilled}.items()):
        predictor = Predictor.load(run)
        pen.text((10, row * SIDE + SIDE // 2), name, "black", font, anchor="lm")
        for column, (image, found) in enumerate(zip(images, predictor.detect(images), strict=True)):
            picture = draw_detections(image, found.above(THRESHOLD), predictor.classes)
            figure.paste(picture.resize((SIDE - 6, SIDE - 6)), (LEFT + column * SIDE, row * SIDE))
    figure.quantize(256).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
