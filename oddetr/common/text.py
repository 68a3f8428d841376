"""Text for people: lists in sentences, and names that may hold control characters."""

import difflib
import re
from collections.abc import Iterable, Sequence

_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks and unpaired surrogates."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "names with values",
    "tuple": "a list",
}
"""Python types in plain words."""


def listed(names: Sequence[str], most: int = 3) -> str:
    """Join names: `a, b, c and 7 more`; empty if there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def readable(text: str) -> bool:
    """Whether a text can be shown on one line and encoded as UTF-8."""
    return _UNREADABLE.search(text) is None


def shown(text: str) -> str:
    """Escape unreadable characters as Python does: `\\x1b` for an escape character."""
    return _UNREADABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    """Escape unreadable characters, but keep line breaks."""
    return "\n".join(map(shown, text.split("\n")))


def unknown_option(name: str, known: Iterable[str]) -> str:
    """Say that there is no option with the dotted `name`, and suggest similar ones of its group, or list the group."""
    known = list(known)
    group, _, own = name.rpartition(".")
    others = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
    near = [".".join(filter(None, (group, other))) for other in difflib.get_close_matches(own, others, n=3)]
    near = near if others else difflib.get_close_matches(name, known, n=3)
    if near:
        return f"There is no option {name}. Did you mean {' or '.join(near)}?"
    return f"There is no option {name}." + (f" {group} has {listed(others, 20)}." if group and others else "")
