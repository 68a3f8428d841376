"""Choice of classes by name or id."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from oddetr.data.dataset import ClassTable

_SHOWN = 30


def split_words(words: str | Iterable[str]) -> list[str]:
    """Words of a comma-separated text, or of a list, without the spaces around them."""
    parts = words.split(",") if isinstance(words, str) else words
    return [word for part in parts if (word := part.strip())]


def choose_labels(words: Sequence[str], classes: ClassTable) -> list[int]:
    """Labels, 0..K-1 and rising, of the classes of these names, or of these original ids where no class has the number
    as its name.

    Raises:
        ValueError: there is no word, or no such class; the message lists the classes.
    """
    if not words:
        raise ValueError(f"No class is named; {_offer(classes)}.")
    ids = {str(number): label for label, number in enumerate(classes.ids)}
    names = {name: label for label, name in enumerate(classes.names)}
    known = ids | names
    unknown = [word for word in words if word not in known]
    if unknown:
        named = ", ".join(f"{word!r}{_alike(word, classes)}" for word in unknown)
        raise ValueError(f"The detector does not know the class {named}; {_offer(classes)}.")
    return sorted({known[word] for word in words})


def _alike(word: str, classes: ClassTable) -> str:
    lower: dict[str, str] = {}
    for name in classes.names:
        lower.setdefault(name.casefold(), name)
    found = get_close_matches(word.casefold(), lower, n=3, cutoff=0.5)
    return f" (is it {' or '.join(repr(lower[match]) for match in found)}?)" if found else ""


def _offer(classes: ClassTable) -> str:
    shown = [
        name if name == str(number) else f"{name} ({number})"
        for name, number in zip(classes.names[:_SHOWN], classes.ids[:_SHOWN], strict=True)
    ]
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return f"there is, with original ids, {', '.join(shown)}{more}"
