import re

import numpy as np

from oddetr.reporting.curves import Curve, curves, precision_recall, shortened


def test_legend_shows_names_with_underscore_and_of_any_script() -> None:
    names = ["_background", "\u72ac", "<b>"]
    svg = precision_recall(np.tile(np.linspace(1, 0, 101), (3, 1)), names).svg
    assert "_background" in svg
    assert "\u72ac" in svg
    assert "&lt;b&gt;" in svg


def test_shortened_names_stay_distinct() -> None:
    paths = [f"/data/experiments/of/november/{number}/cells" for number in (1, 2)]
    assert len({*shortened(paths)}) == 2
    assert shortened(["cells", "x" * 40]) == ["cells", "x" * 25 + "…"]
    assert all(len(label) <= 26 for label in shortened(paths))


def test_no_two_curves_look_alike() -> None:
    lines = [Curve(f"run {number}", [0, 1], [0.0, 1.0]) for number in range(20)]
    svg = curves("AP", lines, "epoch", "AP").svg
    styles = re.findall(r'style="(fill: none[^"]*var\(--series[^"]*)"', svg)
    drawn = styles[: len(lines)]
    assert len(drawn) == 20
    assert len({*drawn}) == 20
