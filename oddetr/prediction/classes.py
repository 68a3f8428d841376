"""Choice of classes by name or id."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from oddetr.common.text import listed
from oddetr.data.dataset import ClassTable

_SHOWN = 30


def split_words(words: str | Iterable[str]) -> list[str]:
    """Words of a comma-separated text, or of a list, without the spaces around them."""
    parts = words.split(",") if isinstance(words, str) else words
    return [word for part in parts if (word := part.strip())]


def choose_labels(words: Sequence[str], classes: ClassTable) -> list[int]:
    """Labels, 0..K-1 and rising, of the classes of these names, or original ids where no class has the number as name.

    Raises:
        ValueError: there is no word, or no such class; the message lists the classes.
    """
    ids = {str(number): label for label, number in enumerate(classes.ids)}
    known = ids | {name: label for label, name in enumerate(classes.names)}
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        found = f"The detector does not know the class {', '.join(_with_match(word, classes) for word in unknown)}"
        offer = [
            name if name == str(number) else f"{name} ({number})"
            for name, number in zip(classes.names, classes.ids, strict=True)
        ]
        raise ValueError(
            f"{found if words else 'No class is named'}; there is, with original ids, {listed(offer, _SHOWN)}."
        )
    return sorted({known[word] for word in words})


def _with_match(word: str, classes: ClassTable) -> str:
    near = get_close_matches(word, classes.names, n=1)
    return f"{word!r} (is it {near[0]!r}?)" if near else repr(word)
