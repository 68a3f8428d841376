"""Numbers as text files write them."""

import math


def to_number(text: str) -> float:
    """The number, which may be infinite; NaN where there is none. Python's own `1_000` is none."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
