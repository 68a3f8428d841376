import numpy as np

from oddetr.reporting.figures import precision_recall


def test_legend_when_names_begin_with_an_underscore_or_are_not_latin_then_holds_them() -> None:
    names = ["_background", "\u72ac", "<b>"]

    svg = precision_recall(np.tile(np.linspace(1, 0, 101), (3, 1)), names).svg

    assert "_background" in svg
    assert "\u72ac" in svg
    assert "&lt;b&gt;" in svg
