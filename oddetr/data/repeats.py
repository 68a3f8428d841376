"""Repeat-factor sampling: images of rare classes are seen more often (LVIS, arXiv 1908.03195)."""

import numpy as np
import torch
from jaxtyping import Float64

from oddetr.data.dataset import Annotations

Factors = Float64[np.ndarray, " images"]
"""How often an image is seen in an epoch, on average; at least 1."""


def repeat_factors(truth: Annotations, threshold: float) -> Factors:
    """Return r(i) = max over the classes c of image i of max(1, sqrt(t / f(c))).

    f(c) is the share of images with an object of class c, and t the threshold, in [0, 1]. Crowd regions do not count.
    Factors are rounded to multiples of 2^-20, so that sums of them are exact.
    """
    pairs = np.unique(np.stack([truth.owners[~truth.crowd], truth.labels[~truth.crowd]]), axis=1)
    shares = np.bincount(pairs[1], minlength=1) / len(truth)
    factors = np.ones(len(truth))
    np.maximum.at(factors, pairs[0], np.sqrt(threshold / shares[pairs[1]]))
    return np.ceil(factors * 2**20) / 2**20


def epoch_length(factors: Factors) -> int:
    """Return the number of examples of an epoch: the sum of the factors, rounded down."""
    return int(factors.sum())


def drawn(factors: Factors, generator: torch.Generator) -> list[int]:
    """Draw the examples of an epoch, in random order: repeat k of image i is i + k * images.

    Image i is drawn floor(r(i)) times, and once more with a probability of the remainder. The draws depend on one
    another (systematic sampling), so that all epochs have one length; where that rounds down, one example is left out.
    """
    images = len(factors)
    order = torch.randperm(images, generator=generator).numpy()
    bounds = np.concatenate([[0.0], np.cumsum(factors[order] % 1)]) + torch.rand((), generator=generator).item()
    counts = np.empty(images, np.int64)
    counts[order] = factors[order].astype(np.int64) + np.diff(np.floor(bounds)).astype(np.int64)
    examples = [image + images * repeat for image, count in enumerate(counts.tolist()) for repeat in range(count)]
    shuffled = torch.randperm(len(examples), generator=generator)[: epoch_length(factors)]
    return [examples[place] for place in shuffled.tolist()]
