import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddetr.checkpoints.checkpoint import read_info
from oddetr.cli import main
from oddetr.reporting.page import confusion_table, differing, drawings
from oddetr.reporting.record import Record
from oddetr.reporting.report import report
from tests.browser import browser
from tests.helpers import contrast, without_checksums
from tests.squares import HOSTILE


@pytest.fixture
def copied(learned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(learned, tmp_path / "copied")


def changed_events(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Applies `change` to each event of the run."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        change(event)
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


def changed_json(file: Path, **values: Any) -> dict[str, Any]:
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps(content))
    return content


def moved_data(run: Path, data: Path, **configuration: Any) -> Path:
    """Lets the run's checkpoint say that it was trained on a copy of its data in `data`."""
    file = run / "best" / "checkpoint.json"
    trained_on = json.loads(file.read_text())["configuration"]
    shutil.copytree(trained_on["data"], data)
    changed_json(file, configuration=trained_on | {"data": str(data)} | configuration)
    without_checksums(run / "best")
    return data


def test_run_writes_a_report_that_is_small_complete_and_escaped_and_survives_its_failure(learned: Path) -> None:
    page = (learned / "report.html").read_text()
    assert len(page) < 5 * 2**20
    assert f"{Record.read(learned).best_scores['AP50']:.3f}" in page
    for part in ("Confusion matrix", "Precision and recall", "Is the matching stable?", "The worst", "Learning rate"):
        assert part in page
    assert "distillation.auxiliary.weight" in page
    thresholds = read_info(learned / "best").thresholds
    assert {*thresholds} == {"blue", HOSTILE}
    assert f"<td>{thresholds['blue']:.2f}</td>" in page
    assert f"oddetr train --config {learned / 'config.json'}" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "The report could not be written (ZeroDivisionError" in (learned / "console.txt").read_text()


def test_pages_in_a_browser_fit_load_nothing_and_sort(learned: Path, copied: Path) -> None:
    long = copied.rename(copied.parent / ("name_without_a_blank_" * 8))
    changed_json(long / "config.json", data="/data/" + "x" * 150)
    page_of_run = learned / "report.html"
    both = report([learned, long], out=copied.parent / "both.html").file
    with browser() as open_page:
        for width, scheme, file in ((390, "dark", page_of_run), (1280, "light", page_of_run), (390, "light", both)):
            watched = open_page(width, scheme)
            page = watched.page
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            heights = page.locator("figure svg").evaluate_all("all => all.map(it => it.getBoundingClientRect().height)")
            assert len(heights) >= (2 if file == both else 6)
            assert min(heights) > 100
            assert all(page.locator("figure[role=img]").evaluate_all("all => all.map(it => it.ariaLabel.length > 20)"))
            assert page.evaluate("[...document.images].every(it => it.complete && it.naturalWidth && it.alt)")
            assert watched.errors == watched.foreign == []
        page.goto(page_of_run.as_uri())
        table = page.locator("table[data-sortable]").first
        heading = table.get_by_role("button", name="objects")
        for order in ("descending", "ascending"):
            heading.press("Enter")
            shown = [int(text) for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
            assert len(shown) == 2
            assert shown == sorted(shown, reverse=order == "descending")
            assert table.locator(f"th[aria-sort={order}]").inner_text() == "objects"


def test_colours_of_the_page_are_legible_in_both_schemes() -> None:
    css = resources.files("oddetr.reporting").joinpath("templates/base.html.jinja").read_text()
    for scheme in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        rgb = {name: tuple(bytes.fromhex(value)) for name, value in re.findall(r"--([\w-]+): #(\w{6})", scheme)}
        inks = ["ink", "soft", "link", *(f"series-{number}" for number in range(1, 9))]
        assert all(contrast(rgb[ink], rgb[paper]) >= 4.5 for ink in inks for paper in ("paper", "card"))


def test_report_without_the_data_shows_the_records(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(moved_data(copied, tmp_path / "gone"))
    written = report(copied)
    assert "gone" in written.missing
    page = written.file.read_text()
    assert "No image was looked at" in page
    assert "AP by class" in page
    assert "Confusion matrix" not in page
    monkeypatch.setattr("oddetr.reporting.findings.open_sources", lambda *_, **__: {})
    assert "no val split any more" in report(copied).missing


def test_only_the_command_allows_data_outside_of_its_folder(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint from a stranger says that it may, and its data hold links to the reader's own pictures."""
    data = moved_data(copied, tmp_path / "scenes", allow_outside=True)
    picture = next((data / "val").glob("*"))
    picture.rename(tmp_path / "mine.png")
    picture.symlink_to(tmp_path / "mine.png")
    written = report(copied)
    assert "No image was looked at" in written.missing
    assert "mine.png" in written.missing
    assert "Confusion matrix" not in written.file.read_text()
    assert main(["report", str(copied), "--allow-outside", "true"]) == 0
    assert "No image was looked at" not in capsys.readouterr().out
    assert "Confusion matrix" in written.file.read_text()


def test_report_names_no_threshold_without_objects(copied: Path, tmp_path: Path) -> None:
    labels = moved_data(copied, tmp_path / "scenes") / "annotations" / "instances_val.json"
    changed_json(labels, annotations=[])
    written = report(copied, images=3)
    page = written.file.read_text()
    assert written.missing == ""
    assert "The best teacher on 3 of 8 validation images" in page
    assert "There is no object on these images" in page
    assert "agree best" not in page


def test_report_of_a_run_that_has_just_started_replaces_a_link(copied: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (copied / "report.html").unlink()
    for name in ("report.html", "report.html.new"):
        (copied / name).symlink_to(victim)
    for folder in (*copied.glob("best*"), *copied.glob("last*")):
        shutil.rmtree(folder)
    (copied / "metrics.jsonl").write_text("")
    written = report(copied)
    assert "not finished" in written.file.read_text()
    assert "There is no checkpoint yet" in written.missing
    assert victim.read_text() == "mine"


def test_report_of_an_older_run_with_fewer_records(copied: Path) -> None:
    (copied / "plan.json").unlink()

    def shorten(event: dict[str, Any]) -> None:
        for name in ("learning_rate", "training_seconds", "waiting_share", "peak_memory_gib", "student"):
            event.pop(name, None)
        for name in ("normalised_instability", "per_class", "AP50"):
            event.get("teacher", {}).pop(name, None)

    assert "kept no findings" in report(changed_events(copied, shorten), images=0).file.read_text()


def test_report_explains_undefined_ap_and_shows_names_that_are_no_text(copied: Path) -> None:
    def undefine(event: dict[str, Any]) -> None:
        for model in {"teacher", "student"} & event.keys():
            event[model] |= dict.fromkeys(("AP", "AP50", "APs", "APm", "APl")) | {"per_class": {}}

    changed_json(copied / "plan.json", data=["no label: caf\udce9.jpg"])
    page = report(changed_events(copied, undefine), images=0).file.read_text()
    assert "the validation images hold no object" in page
    assert "caf\\udce9.jpg" in page


def test_report_of_several_runs_shows_what_differs(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(copied, tmp_path / "other")
    optimizer = json.loads((other / "config.json").read_text())["optimizer"]
    changed_json(other / "config.json", optimizer=optimizer | {"learning_rate": 0.123})
    assert [name for name, _ in differing([Record.read(copied), Record.read(other)])] == ["optimizer.learning_rate"]
    assert main(["report", str(copied), str(other), "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "0.123" in page
    assert "copied" in page
    assert "both.html" in capsys.readouterr().out


def test_wrong_folder_or_output_is_refused(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "There is no run in" in capsys.readouterr().err
    (copied / "best" / "config.json").write_text("{}")  # as transformers' detectors have
    with pytest.raises(FileNotFoundError, match="folder above"):
        report(copied / "best")
    with pytest.raises(ValueError, match="different"):
        report([copied, copied])
    with pytest.raises(ValueError, match="images is -1"):
        report(copied, images=-1)
    for out in (tmp_path, "/dev/null"):
        with pytest.raises(ValueError, match=f"{out} is a folder or a device"):
            report(copied, out=out)


def test_confusion_table_shows_the_most_confused_of_many_classes() -> None:
    names = tuple(f"class {number}" for number in range(40))
    confusion = np.diag(np.full(41, 5))
    confusion[7, 30] = 9
    table = confusion_table(names, confusion)
    assert len(table["rows"]) == len(table["columns"]) == len(table["counts"]) == 15
    assert {"class 7", "class 30"} <= {*table["rows"]}
    assert "14 most confused of 40" in table["note"]


def test_losses_have_a_figure_for_each_group_and_end_where_they_faded(copied: Path) -> None:
    last = Record.read(copied).steps[-1]["step"]

    def change(event: dict[str, Any]) -> None:
        if event["kind"] == "train":
            event |= {f"loss_{group}_{part}": 1.0 for group in ("denoising", "one_to_many") for part in ("l1", "giou")}
        if event["step"] == last:
            for name in [name for name in event if name.startswith("loss_auxiliary")]:
                del event[name]

    record = Record.read(changed_events(copied, change))
    curves = {curve.name: curve.x for curve in record.losses()}
    assert curves["auxiliary classes"]
    assert last in curves["classes"]
    assert last not in curves["auxiliary classes"]
    titles = [drawing.title for drawing in drawings(record)]
    for group in ("prediction", "auxiliary", "denoising", "one to many"):
        assert f"Loss of the {group} group, by step" in titles


@pytest.mark.parametrize(
    ("epochs", "schedule", "kind", "advice"),
    [
        ([6, 12, 18, 24, 30, 36], "step", "moving", "--epochs"),
        ([6, 12, 18, 24, 30, 34], "step", "unstable", "--optimizer.drop-at"),
        ([6, 12, 18, 24, 30, 34], "cosine", "unstable", "OD-DETR"),
    ],
    ids=["equal gaps", "the last gap is shorter", "cosine"],
)
def test_stability_of_a_baseline(epochs: list[int], schedule: str, kind: str, advice: str, copied: Path) -> None:
    """The last of the values is left out where it followed sooner."""
    record = Record.read(copied)
    configuration = record.configuration | {"distillation": {"enabled": False}, "optimizer": {"schedule": schedule}}
    events = tuple(
        {"kind": "epoch", "epoch": epoch, "teacher": {}, "student": {"normalised_instability": [value]}}
        for epoch, value in zip(epochs, [0.4, 0.1, 0.3, 0.35, 0.4, 0.14], strict=True)
    )
    verdict = replace(record, configuration=configuration, epochs=events).stability()
    assert verdict.kind == kind
    assert advice in verdict.advice
    assert ("--optimizer.drop-at" in verdict.advice) == (kind == "unstable" and schedule == "step")
