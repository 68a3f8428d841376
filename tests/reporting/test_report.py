import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import oddetr
from oddetr.cli import main
from oddetr.reporting.page import confusion_table, differing, drawings
from oddetr.reporting.record import Record
from oddetr.reporting.report import Report, report
from oddetr.training.config import TrainConfig
from oddetr.training.run import run
from tests.browser import browser
from tests.conftest import tiny_arguments
from tests.helpers import without_checksums

HOSTILE = '<script>alert("1")</script> & "$x$"'


@pytest.fixture(scope="session")
def reported(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs whose first class has a name that is code."""
    folder = tmp_path_factory.mktemp("reported")
    data = shutil.copytree(scenes, folder / "scenes")
    for file in data.rglob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = HOSTILE
        file.write_text(json.dumps(content))
    return run(TrainConfig(**tiny_arguments(data, folder / "run")), Console(file=io.StringIO()))


@pytest.fixture
def copied(reported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reported, tmp_path / "copied")


def _rewritten(run: Path, change: Any) -> Path:
    """Apply `change` to each event of the run."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        change(event)
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


@pytest.fixture(scope="session")
def written(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a finished run, for tests that only read it."""
    return oddetr.report(shutil.copytree(reported, tmp_path_factory.mktemp("written") / "run"))


def test_report_of_a_finished_run_is_small_complete_and_escaped(written: Report) -> None:
    page, run = written.file.read_text(), written.file.parent
    assert written.file.name == "report.html"
    assert written.missing == ""
    assert len(page) < 5 * 2**20
    best = Record.read(run).best
    assert best is not None
    assert f"{best['teacher']['AP50']:.3f}" in page
    for part in ("Confusion matrix", "Precision and recall", "Is the matching stable?", "The worst", "Learning rate"):
        assert part in page
    assert "distillation.auxiliary.weight" in page
    assert f"oddetr train --config {run / 'config.json'}" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page


@pytest.mark.parametrize("width", [390, 1280])
def test_page_opens_without_errors_and_requests_and_fits(written: Report, width: int) -> None:
    with browser() as open_page:
        watched = open_page(width, "dark" if width == 390 else "light")
        page = watched.page
        page.goto(written.file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        figures = page.locator("figure svg")
        assert figures.count() >= 6
        assert all(figures.nth(place).bounding_box()["height"] > 100 for place in range(figures.count()))
        assert all(page.locator("figure[role=img]").evaluate_all("all => all.map(it => it.ariaLabel.length > 20)"))
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")
        assert _least_contrast(page) >= 4.5
        assert watched.errors == watched.foreign == []


def test_page_with_long_names_does_not_scroll_sideways(copied: Path, tmp_path: Path) -> None:
    long = shutil.copytree(copied, tmp_path / ("name_without_a_blank_" * 8))
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps(config | {"data": "/data/" + "x" * 150}))
    files = [report(long, images=0).file, report([copied, long], out=tmp_path / "both.html").file]
    with browser() as open_page:
        page = open_page(390).page
        for file in files:
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 390


def _least_contrast(page: Any) -> float:
    """Of the page's inks on its papers, by WCAG 2."""
    return page.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
                const hex = style.getPropertyValue(name).trim();
                const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
                const line = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2];
            };
            const inks = ["--ink", "--soft", "--link", ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `--series-${n}`)];
            const ratios = inks.flatMap((ink) => ["--paper", "--card"].map((paper) => {
                const [low, high] = [light(ink), light(paper)].sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
            }));
            return Math.min(...ratios);
        }"""
    )


def test_table_sorts_by_the_heading_that_is_pressed(written: Report) -> None:
    with browser() as open_page:
        page = open_page().page
        page.goto(written.file.as_uri())
        table = page.locator("table[data-sortable]").first

        def column(number: int) -> list[float]:
            cells = table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()
            return [float(cell) for cell in cells if cell != "-"]

        heading = table.get_by_role("button", name="objects")
        heading.press("Enter")
        assert column(4) == sorted(column(4), reverse=True)
        assert table.locator("th[aria-sort=descending]").inner_text() == "objects"
        heading.click()
        assert column(4) == sorted(column(4))
        assert len(column(4)) == 10


def test_report_without_the_data_shows_the_records(copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "best" / "checkpoint.json").read_text())
    config["configuration"]["data"] = str(tmp_path / "gone")
    (copied / "best" / "checkpoint.json").write_text(json.dumps(config))
    without_checksums(copied / "best")
    written = report(copied)
    assert "No image was looked at" in written.missing
    assert "gone" in written.missing
    page = written.file.read_text()
    assert "No image was looked at" in page
    assert "AP by class" in page
    assert "Confusion matrix" not in page


def test_report_replaces_a_link_and_not_its_target(copied: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    for name in ("report.html", "report.html.new"):
        (copied / name).symlink_to(victim)
    assert report(copied, images=0).file.read_text().startswith("<!doctype html>")
    assert victim.read_text() == "mine"
    with pytest.raises(ValueError, match="/dev/null is no ordinary file, and would be replaced"):
        report(copied, out="/dev/null")


def test_only_the_command_allows_data_outside_of_its_folder(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint from a stranger says that it may, and its data hold links to the reader's own pictures."""
    info = json.loads((copied / "best" / "checkpoint.json").read_text())
    data = shutil.copytree(info["configuration"]["data"], tmp_path / "scenes")
    picture = next((data / "val").glob("*"))
    picture.rename(tmp_path / "mine.png")
    picture.symlink_to(tmp_path / "mine.png")
    info["configuration"] |= {"data": str(data), "allow_outside": True}
    (copied / "best" / "checkpoint.json").write_text(json.dumps(info))
    without_checksums(copied / "best")
    written = report(copied)
    assert "No image was looked at" in written.missing
    assert "mine.png" in written.missing
    assert "Confusion matrix" not in written.file.read_text()
    assert main(["report", str(copied), "--allow-outside", "true"]) == 0
    assert "No image was looked at" not in capsys.readouterr().out
    assert "Confusion matrix" in written.file.read_text()


def test_report_of_a_run_that_has_just_started(copied: Path) -> None:
    for folder in (*copied.glob("best*"), *copied.glob("last*")):
        shutil.rmtree(folder)
    (copied / "metrics.jsonl").write_text("")
    written = report(copied)
    page = written.file.read_text()
    assert "not finished" in page
    assert "There is no checkpoint yet" in written.missing


def test_report_of_an_older_run_with_fewer_records(copied: Path) -> None:
    (copied / "plan.json").unlink()

    def shorten(event: dict[str, Any]) -> None:
        for name in ("learning_rate", "training_seconds", "waiting_share", "peak_memory_gib", "student"):
            event.pop(name, None)
        for name in ("normalised_instability", "per_class", "AP50"):
            event.get("teacher", {}).pop(name, None)

    assert "kept no findings" in report(_rewritten(copied, shorten), images=0).file.read_text()


def test_report_explains_undefined_ap(copied: Path) -> None:
    def undefine(event: dict[str, Any]) -> None:
        for model in ("teacher", "student"):
            if model in event:
                event[model] |= dict.fromkeys(("AP", "AP50", "APs", "APm", "APl")) | {"per_class": {}}

    assert "the validation images hold no object" in report(_rewritten(copied, undefine), images=0).file.read_text()


def test_report_of_several_runs_shows_what_differs(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(copied, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.123
    (other / "config.json").write_text(json.dumps(config))
    assert [name for name, _ in differing([Record.read(copied), Record.read(other)])] == ["optimizer.learning_rate"]
    assert main(["report", str(copied), str(other), "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "0.123" in page
    assert "copied" in page
    assert "both.html" in capsys.readouterr().out


def test_folder_that_is_no_run_is_refused(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "There is no run in" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="folder above"):
        report(copied / "best")
    (copied / "best" / "config.json").write_text("{}")  # as transformers' detectors have
    with pytest.raises(FileNotFoundError, match="folder above"):
        report(copied / "best")
    with pytest.raises(ValueError, match="different"):
        report([copied, copied])
    with pytest.raises(ValueError, match="is a folder"):
        report(copied, out=tmp_path)


def test_confusion_table_shows_the_most_confused_of_many_classes() -> None:
    names = tuple(f"class {number}" for number in range(40))
    confusion = np.diag(np.full(41, 5))
    confusion[7, 30] = 9
    table = confusion_table(names, confusion)
    assert len(table.rows) == len(table.columns) == 15
    assert {"class 7", "class 30"} <= {*table.rows}
    assert "14 most confused of 40" in table.note


def test_run_writes_a_report_and_survives_a_broken_one(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddetr.training.plan.forecast.LEAST", 1)
    console = Console(file=io.StringIO(), width=300)
    folder = run(TrainConfig(**tiny | {"epochs": 2}), console, report=report)
    assert (folder / "report.html").is_file()
    assert f"report: {folder / 'report.html'}" in console.file.getvalue()
    told = json.loads((folder / "plan.json").read_text())["forecast"]
    assert 0 < told["cost_low"] <= told["cost"] <= told["cost_high"]
    page = (folder / "report.html").read_text()
    assert re.search(rf"cost of OD-DETR.{{,200}}{told['cost']:.2f}", page, re.DOTALL)
    assert f"from {told['cost_low']:.2f} to {told['cost_high']:.2f}" in page
    monkeypatch.setattr("oddetr.reporting.report.Record.read", lambda _: 1 / 0)
    console = Console(file=io.StringIO(), width=300)
    run(TrainConfig(**tiny | {"epochs": 1, "out": tiny["out"].with_name("other")}), console, report=report)
    assert "The report could not be written (ZeroDivisionError" in console.file.getvalue()


def test_loss_curves_of_faded_terms_end_early(copied: Path) -> None:
    first, last = [event["step"] for event in Record.read(copied).steps][:: len(Record.read(copied).steps) - 1]
    assert first < last

    def fade(event: dict[str, Any]) -> None:
        if event["kind"] == "train" and event["step"] == last:
            for name in [name for name in event if name.startswith("loss_auxiliary")]:
                del event[name]

    curves = {curve.name: curve.x for curve in Record.read(_rewritten(copied, fade)).losses()}
    assert curves["auxiliary classes"]
    assert last in curves["classes"]
    assert last not in curves["auxiliary classes"]


def test_each_group_has_its_own_loss_figure(copied: Path) -> None:
    def more(event: dict[str, Any]) -> None:
        if event["kind"] == "train":
            event |= {f"loss_{group}_{part}": 1.0 for group in ("denoising", "one_to_many") for part in ("l1", "giou")}

    titles = [drawing.title for drawing in drawings(Record.read(_rewritten(copied, more)))]
    for group in ("prediction", "auxiliary", "denoising", "one to many"):
        assert f"Loss of the {group} group, by step" in titles


def test_last_validation_after_a_shorter_gap_is_ignored(copied: Path) -> None:
    record = Record.read(copied)
    values = [0.4, 0.1, 0.3, 0.35, 0.4, 0.14]

    def verdict(epochs: list[int]) -> str:
        events = tuple(
            {"kind": "epoch", "epoch": epoch, "teacher": {}, "student": {"normalised_instability": [value]}}
            for epoch, value in zip(epochs, values, strict=True)
        )
        return replace(record, epochs=events).stability().kind

    assert verdict([6, 12, 18, 24, 30, 34]) == "unstable"
    assert verdict([6, 12, 18, 24, 30, 36]) != "unstable"


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_advice_for_an_unstable_baseline(schedule: str, copied: Path) -> None:
    record = Record.read(copied)
    optimizer = record.configuration["optimizer"] | {"schedule": schedule}
    configuration = record.configuration | {"distillation": {"enabled": False}, "optimizer": optimizer}
    events = tuple(
        {"kind": "epoch", "epoch": epoch, "teacher": {}, "student": {"normalised_instability": [value]}}
        for epoch, value in enumerate((0.4, 0.1, 0.3, 0.35, 0.4))
    )
    advice = replace(record, configuration=configuration, epochs=events).stability().advice
    assert "OD-DETR" in advice
    assert ("--optimizer.drop-at" in advice) == (schedule == "step")


def test_report_of_file_names_that_are_no_text(copied: Path) -> None:
    beginning = json.loads((copied / "plan.json").read_text())
    (copied / "plan.json").write_text(json.dumps(beginning | {"data": ["no label: caf\udce9.jpg"]}))
    assert "caf\\udce9.jpg" in report(copied, images=0).file.read_text()


def test_report_names_no_threshold_without_objects(copied: Path, tmp_path: Path) -> None:
    info = json.loads((copied / "best" / "checkpoint.json").read_text())
    data = shutil.copytree(info["configuration"]["data"], tmp_path / "scenes")
    for file in data.rglob("*val*.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"annotations": []}))
    info["configuration"]["data"] = str(data)
    (copied / "best" / "checkpoint.json").write_text(json.dumps(info))
    without_checksums(copied / "best")
    written = report(copied)
    page = written.file.read_text()
    assert written.missing == ""
    assert "There is no object on these images" in page
    assert "agree best" not in page


def test_report_says_that_the_validation_split_is_gone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddetr.reporting.findings.open_sources", lambda *_, **__: {})
    assert "no val split any more" in report(copied).missing
