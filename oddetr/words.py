"""Texts that people read: lists in sentences, and names that may hold what cannot be read."""

import re
from collections.abc import Sequence

_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 7 more`; empty where there is none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def readable(text: str) -> bool:
    """Whether it can be shown, and written as UTF-8: it has no control character, line break or half of a character."""
    return _UNREADABLE.search(text) is None


def shown(text: str) -> str:
    """The text with everything that is not readable as Python writes it: `\\x1b` for an escape character."""
    return _UNREADABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    """The same, with its line breaks kept."""
    return "\n".join(map(shown, text.split("\n")))
