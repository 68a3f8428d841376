"""The size at which an image is seen, by `--image-size`."""

import numpy as np
from jaxtyping import Float64, Int64

LONGEST = 1333 / 800
"""The longest side, relative to the shorter."""


def resized_shape(height: int, width: int, shorter: int) -> tuple[int, int]:
    """The (height, width) to which an image is resized: its shorter side becomes `shorter`, unless the longer would
    exceed `LONGEST` times that; then the longer has this length. All in pixels, >= 1.
    """
    scale = scale_of(height, width, float(shorter))
    return max(1, round(height * scale)), max(1, round(width * scale))


def scale_of(height: int, width: int, shorter: float) -> float:
    """The factor by which an image is resized; see `resized_shape`."""
    return min(shorter / min(height, width), shorter * LONGEST / max(height, width))


def native_sizes(sizes: Int64[np.ndarray, "images 2"]) -> Float64[np.ndarray, " images"]:
    """The `shorter` at which each image of (height, width) keeps its own size.

    It is the shorter side, or, of a long strip, the longer one over `LONGEST`.
    """
    return np.maximum(sizes.min(axis=1), sizes.max(axis=1) / LONGEST)
