"""The terminal, to which names out of data sets and checkpoints are shown, and not obeyed."""

from typing import Any

from rich.console import Console
from rich.text import Text

from oddetr.common.text import shown_lines


class Terminal(Console):
    r"""A rich console without markup on which escape sequences in strings, also those of tables, are shown (`\x1b[2J`).

    What is no string when rich gets it (`Text`, a progress bar's description) is left to whoever makes it:
    `oddetr.common.text.shown`.

    Args:
        options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, which calls this of every string."""
        return super().render_str(shown_lines(text), **options)
