"""Lists in sentences."""

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 7 more`; empty where there is none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
