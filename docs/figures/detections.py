"""Draw `detections.png` from what `make quickstart` leaves: its first eight pictures, none left out.

python docs/figures/detections.py runs/quickstart/pictures
"""

import sys
from pathlib import Path

from PIL import Image

COLUMNS, ROWS, SIDE = 4, 2, 270


def main(folder: str) -> None:
    """Write the figure."""
    figure = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE), "white")
    for place, file in enumerate(sorted(Path(folder).glob("*.png"))[: COLUMNS * ROWS]):
        picture = Image.open(file).resize((SIDE - 6, SIDE - 6))
        figure.paste(picture, (place % COLUMNS * SIDE + 3, place // COLUMNS * SIDE + 3))
    figure.quantize(256).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
