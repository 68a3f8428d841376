import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddetr.comparison import report as reporting
from oddetr.comparison.arms import STANDARD
from oddetr.comparison.config import ComparisonConfig
from oddetr.comparison.figures import FIGURES, comparison_figure, draw_figures
from oddetr.comparison.report import write_report
from tests.comparison.synthetic import made_result

ARMS = {"qfl": (0.3, 0.4, 0.5), "mine": (0.45, 0.35, 0.6)}
RUNS = {
    arm: [made_result(arm, seed, (0.1, ap), without_duplicates=ap + 0.05) for seed, ap in enumerate(values)]
    for arm, values in ARMS.items()
}


@pytest.fixture
def config(tmp_path: Path) -> ComparisonConfig:
    arms = {"qfl": None, "mine": {"optimizer": {"clip": 0.5}}}
    return ComparisonConfig(base={"epochs": 2}, arms=arms, out=tmp_path, split="test")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second."""
    monkeypatch.setattr(reporting, "draw_figures", lambda *_: [*FIGURES])


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_has_means_deviations_and_paired_differences(config: ComparisonConfig) -> None:
    found = rows(write_report(config, RUNS, "oddetr compare c.yaml"))
    shared = ["0.200 ± 0.000", "0.800 ± 0.200", "0.450 ± 0.100", "0.250 ± 0.000", "0.250 ± 0.000", "2.0 ± 0.0"]
    assert found[2] == ["QFL baseline", "3", "0.400 ± 0.100", *shared]
    assert found[0][5] == "without duplicates"
    assert found[3][:3] == ["mine", "3", "0.467 ± 0.126"]
    assert found[-1] == ["mine", "+0.067 ± 0.104", "2 of 3", "0: +0.150, 1: -0.050, 2: +0.100"]
    assert len({len(line) for line in (config.out / "results.md").read_text().splitlines() if "± 0.126" in line}) == 1


def test_table_has_a_column_carried_only_if_some_run_is_below_one(config: ComparisonConfig) -> None:
    for runs in (RUNS, {"qfl": RUNS["qfl"], "mine": [made_result("mine", 0, carried=1.0)]}):
        assert "arried" not in write_report(config, runs, "")
    text = write_report(config, {"qfl": RUNS["qfl"], "mine": [made_result("mine", 0, carried=0.75)]}, "")
    found = rows(text)
    assert [line[-1] for line in (found[0], *found[2:4])] == ["carried", "-", "0.750 ± -"]
    assert "Carried: share of objects whose teacher's query the student has too, mean over the run." in text
    content = json.loads((config.out / "results.json").read_text())
    assert content["arms"]["mine"]["summary"]["carried"]["mean"] == 0.75
    assert content["arms"]["mine"]["seeds"]["0"]["epochs"][0]["matching_carried"] == 0.75


def test_table_counts_finished_seeds_where_some_are_missing(config: ComparisonConfig) -> None:
    text = write_report(config, {"qfl": RUNS["qfl"][:1], "mine": []}, "")
    found = rows(text)
    assert found[2][:3] == ["QFL baseline", "1 of 3", "0.300 ± -"]
    assert found[3] == ["mine", "0 of 3", *["-"] * 7]
    assert "Difference" not in text


def test_report_names_terms_command_and_the_runs_of_each_machine(config: ComparisonConfig) -> None:
    write_report(config, RUNS, "oddetr compare c.yaml --seeds 0,1,2")
    text = (config.out / "results.md").read_text()
    for part in ("`oddetr compare c.yaml --seeds 0,1,2`", "epochs: 2", "clip: 0.5", "split `test`"):
        assert part in text, part
    assert "- Machine: a machine\n" in text
    assert all(f"]({name})" in text for name in FIGURES)
    elsewhere = [replace(run, machine="another") if run.seed == 1 else run for run in RUNS["mine"]]
    write_report(config, {"qfl": RUNS["qfl"], "mine": elsewhere}, "command")
    lines = [line for line in (config.out / "results.md").read_text().splitlines() if line.startswith("- Machine")]
    assert lines == ["- Machine: a machine (qfl: seed 0, 1, 2; mine: seed 0, 2)", "- Machine: another (mine: seed 1)"]


def test_results_json_holds_curves_scores_and_summary(config: ComparisonConfig) -> None:
    write_report(config, RUNS, "command")
    content = json.loads((config.out / "results.json").read_text())
    assert (content["format"], content["reference"], content["split"]) == (1, "qfl", "test")
    assert content["configuration"] == json.loads(json.dumps(config.to_json()))
    mine = content["arms"]["mine"]
    assert (mine["label"], mine["changes"]) == ("mine", {"optimizer": {"clip": 0.5}})
    assert mine["terms"]["optimizer"]["clip"] == 0.5
    assert mine["seeds"]["1"]["scores"]["teacher"]["AP"] == 0.35
    assert [epoch["teacher"]["AP"] for epoch in mine["seeds"]["1"]["epochs"]] == [0.1, 0.35]
    assert mine["summary"]["teacher_ap"]["mean"] == pytest.approx(1.4 / 3)
    assert mine["difference"]["by_seed"] == pytest.approx({"0": 0.15, "1": -0.05, "2": 0.1})
    assert mine["difference"]["above"] == 2


def test_figures_tell_arms_apart_without_colour_and_show_all_values() -> None:
    runs = {arm: [made_result(arm, seed) for seed in range(2)] for arm in (*STANDARD, "mine")}
    figure = comparison_figure(runs, FIGURES["ap_epoch.png"])
    for panel, title in zip(figure.axes, ("student", "teacher (EMA)"), strict=True):
        assert panel.get_title() == title
        assert panel.get_xlabel() == "epoch"
        lines = panel.get_lines()
        assert len(lines) == len(panel.collections) == 10
        assert len({line.get_marker() for line in lines}) == 10
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 10
    uneven = comparison_figure({"qfl": [made_result(student=(0.1, 0.2), teacher=(0.3, 0.9))]}, FIGURES["ap_epoch.png"])
    for panel in uneven.axes:
        assert panel.get_ylim()[0] == 0
        assert panel.get_ylim()[1] > 0.9
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["focal baseline", "QFL baseline"]


def test_figure_over_time_averages_minutes_and_ap_over_seeds() -> None:
    runs = [made_result(seed=seed, teacher=(0.1, ap)) for seed, ap in enumerate((0.2, 0.4))]
    runs[1].epochs[1]["training_seconds"] = 180.0
    line = comparison_figure({"qfl": runs}, FIGURES["ap_time.png"]).axes[1].get_lines()[0]
    assert line.get_xydata() == pytest.approx(np.array([[1.0, 0.1], [2.5, 0.3]]))
    band = comparison_figure({"qfl": runs}, FIGURES["ap_time.png"]).axes[1].collections[0].get_paths()[0]
    assert {(2.5, 0.2), (2.5, 0.4)} < {tuple(point) for point in band.vertices.round(6).tolist()}


def test_figures_are_pictures_and_those_without_a_curve_are_removed(tmp_path: Path) -> None:
    never = {"qfl": [made_result(teacher=(0.1,), student=(0.1,), instability=(None,))]}
    (tmp_path / "instability.png").write_text("old")
    assert draw_figures(never, tmp_path) == ["ap_epoch.png", "ap_time.png"]
    assert not (tmp_path / "instability.png").exists()
    picture = np.asarray(Image.open(tmp_path / "ap_epoch.png").convert("L"))
    assert picture.shape == (1050, 1800)
    assert picture.std() > 10
