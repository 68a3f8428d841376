"""A terminal that shows names from data sets and checkpoints without obeying escape sequences in them."""

from typing import Any

from rich.console import Console
from rich.text import Text

from oddetr.common.text import shown_lines


class Terminal(Console):
    r"""A rich console without markup that prints escape sequences as text (`\x1b[2J`), also in tables.

    Objects that are no strings (`Text`, a progress bar's description) must be escaped by whoever makes them, with
    `oddetr.common.text.shown`.

    Args:
        options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a string before rich renders it; rich calls this for every string."""
        return super().render_str(shown_lines(text), **options)


def print_line(console: Console, text: object, style: str | None = None) -> None:
    """Print a text as it is: rich neither colours the numbers in it nor breaks its lines."""
    console.print(text, style=style, highlight=False, soft_wrap=True)
