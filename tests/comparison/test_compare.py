"""The verb: what is trained, what is not trained again, and what is left behind."""

import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import oddetr
from oddetr.cli import main
from oddetr.comparison import compare as comparing
from oddetr.comparison import report as reporting
from oddetr.comparison.compare import compare
from oddetr.comparison.config import ComparisonConfig, read_config
from oddetr.comparison.records import Job
from tests.comparison.ctrl_c import ctrl_c_when
from tests.comparison.synthetic import finish, made_result
from tests.conftest import tiny_arguments
from tests.helpers import as_of_0_1


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def job_of(config: ComparisonConfig, arm: str, seed: int) -> Job:
    return Job(arm, seed, "test", 1, 1, config.train_config(arm, seed))


def test_compare_resumes_after_an_interrupt_and_reports_all(scenes: Path, tmp_path: Path) -> None:
    base = tiny_arguments(scenes, tmp_path) | {"epochs": 5, "batch_size": 8}
    del base["out"]
    out, console = tmp_path / "out", quiet()
    config = ComparisonConfig(base=base, arms={"qfl": None, "focal": None}, seeds=(0,), out=out, threads=1)
    finish(job_of(config, "focal", 0), made_result("focal", 0))
    interrupted = out / "qfl" / "seed_0"
    with ctrl_c_when((interrupted / "last").exists):
        compare(config, console=console)
    shown = console.file.getvalue()
    assert "runs to do: 1 of 2   at a time: 1   scored on: test" in shown
    assert f"with --jobs 0 to tabulate:\noddetr compare {out / 'comparison.yaml'}\n" in shown
    assert not (interrupted / "result.json").exists()

    console = quiet()
    report = oddetr.compare(out / "comparison.yaml", console=console)
    assert report.failures == []
    assert "resuming after" in (interrupted / "log.txt").read_text()
    assert report.results["focal"] == [made_result("focal", 0)]
    assert f"report: {out / 'results.md'}" in console.file.getvalue()
    arm = json.loads((out / "results.json").read_text())["arms"]["qfl"]
    (each,) = arm["seeds"].values()
    assert [epoch["epoch"] for epoch in each["epochs"]] == [1, 2, 3, 4, 5]
    assert 0 < each["epochs"][0]["training_seconds"] < each["epochs"][1]["training_seconds"]
    for model, name in itertools.product(("teacher", "student"), ("AP", "AP_without_duplicates")):
        assert 0 <= each["scores"][model][name] <= 1
    assert arm["summary"]["without_duplicates"]["values"] == [each["scores"]["teacher"]["AP_without_duplicates"]]
    assert (out / "ap_epoch.png").stat().st_size > 10_000


@pytest.fixture
def finished(tmp_path: Path) -> ComparisonConfig:
    """Two arms with two seeds that nobody trained, and a file of the comparison."""
    config = ComparisonConfig(arms={"qfl": None, "focal": None}, seeds=(0, 1), out=tmp_path / "out", split="test")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.to_json(), sort_keys=False))
    for arm, seed in config.pairs():
        finish(job_of(config, arm, seed), made_result(arm, seed))
    return config


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were to be trained, of which instead nothing is done; nor are figures drawn."""
    monkeypatch.setattr(reporting, "draw_figures", lambda *_: [])
    names: list[str] = []

    def run_jobs(jobs: list[Job], *_: object) -> list:
        names.extend(job.name for job in jobs)
        return []

    monkeypatch.setattr(comparing, "run_jobs", run_jobs)
    return names


def test_adopted_runs_are_not_trained_again(finished: ComparisonConfig, trained: list) -> None:
    """Arms and seeds may be others; the runs' folders and the place of the comparison are gone."""
    compare(finished, console=quiet())
    file = (finished.out / "results.json").rename(finished.out.parent / "published.json")
    shutil.rmtree(finished.out)
    more = replace(finished, arms={"qfl": None, "qfl_matching": None}, seeds=(1, 2), out=finished.out.parent / "more")
    console = quiet()
    report = compare(more, adopted=file, console=console)
    assert trained == ["qfl_matching seed 1", "qfl seed 2", "qfl_matching seed 2"]
    assert f"adopted from {file}: 2 runs" in console.file.getvalue()
    assert report.results["qfl"] == [made_result("qfl", 0), made_result("qfl", 1)]
    console = quiet()
    compare(more, adopted=file, console=console)
    assert ": 0 runs" in console.file.getvalue()


def test_adopted_runs_of_oddetr_0_1_are_of_arms_without_rivals(tmp_path: Path, trained: list) -> None:
    arms = {"qfl": None, "mine": {"like": "oddetr_constant"}}
    before = ComparisonConfig(arms=arms, seeds=(0,), out=tmp_path / "before")
    for arm, seed in before.pairs():
        finish(job_of(before, arm, seed), made_result(arm, seed))
    compare(before, console=quiet())
    content = json.loads((before.out / "results.json").read_text())
    for arm in content["arms"].values():
        arm["terms"] = as_of_0_1(arm["terms"])
    (tmp_path / "published.json").write_text(json.dumps(content))
    now, console = replace(before, out=tmp_path / "now"), quiet()
    compare(now, adopted=tmp_path / "published.json", console=console)
    assert ": 2 runs" in console.file.getvalue()
    assert compare(now, console=quiet()).results["mine"] == [made_result("mine", 0)]
    assert trained == []
    kept = json.loads((now.out / "mine" / "seed_0" / "job.json").read_text())["config"]
    assert kept == json.loads(json.dumps(now.train_config("mine", 0).to_json()))
    with_rivals = replace(before, arms=arms | {"mine": {"like": "oddetr"}}, out=tmp_path / "other")
    with pytest.raises(ValueError, match=r"runs of mine in .*auxiliary\.rivals was 0, now it is 3"):
        compare(with_rivals, adopted=tmp_path / "published.json", console=quiet())


def test_adopting_runs_of_another_configuration_or_no_results_is_refused(
    finished: ComparisonConfig, trained: list, tmp_path: Path
) -> None:
    compare(finished, console=quiet())
    other = replace(finished, base={"epochs": 3, "data": "cells"}, out=tmp_path / "other", jobs=0)
    with pytest.raises(ValueError, match=r"data was digits, now it is .*cells; epochs was 50, now it is 3"):
        compare(other, adopted=finished.out / "results.json", console=quiet())
    assert not [*other.out.glob("*/seed_*")]
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.json"):
        compare(finished, adopted=tmp_path / "none.json", console=quiet())
    for text in ("no JSON", "[]", '{"arms": {"qfl": {"seeds": {"0": {}}}}, "split": "test"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json is no results.json"):
            compare(finished, adopted=tmp_path / "bad.json", console=quiet())


def test_given_seeds_and_arms_are_trained_and_all_are_reported(
    finished: ComparisonConfig, trained: list, tmp_path: Path
) -> None:
    base = {"data": Path("digits")}
    report = compare(tmp_path / "c.yaml", seeds=[1, 2, 3], arms=["focal"], base=base, console=quiet())
    assert trained == ["focal seed 2", "focal seed 3"]
    assert [run.seed for run in report.results["qfl"]] == [0, 1]
    text = (finished.out / "results.md").read_text()
    assert "2 of 4" in text
    assert f"`oddetr compare {finished.out / 'comparison.yaml'} --arms focal`" in text
    assert read_config(finished.out / "comparison.yaml").seeds == (0, 1, 2, 3)
    assert json.loads((finished.out / "results.json").read_text())["configuration"]["seeds"] == [0, 1, 2, 3]


def test_written_comparison_reproduces_the_table_after_seeds_are_added(
    finished: ComparisonConfig, monkeypatch: pytest.MonkeyPatch, trained: list
) -> None:
    def run_jobs(jobs: list[Job], *_: object) -> list:
        for job in jobs:
            finish(job, made_result(job.arm, job.seed))
        return []

    monkeypatch.setattr(comparing, "run_jobs", run_jobs)
    compare(finished, seeds=[3], console=quiet())
    table = (finished.out / "results.md").read_text()
    assert "0: +0.000, 1: +0.000, 3: +0.000" in table
    compare(finished.out / "comparison.yaml", console=quiet())
    again = (finished.out / "results.md").read_text()
    assert again.partition("## Terms")[0] == table.partition("## Terms")[0]
    (finished.out / "comparison.yaml").unlink()
    compare(finished, jobs=0, seeds=[1], console=quiet())
    written = read_config(finished.out / "comparison.yaml")
    assert (written.seeds, written.jobs) == ((0, 1, 3), 1)


def test_runs_of_another_base_are_refused_before_training(finished: ComparisonConfig, trained: list) -> None:
    with pytest.raises(ValueError, match=r"qfl/seed_0 has another configuration: epochs was 50, now it is 3"):
        compare(finished, base={"epochs": 3}, console=quiet())
    (finished.out / "qfl" / "seed_0" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"qfl/seed_0 has another configuration: epochs was 50, now it is 3"):
        compare(finished, base={"epochs": 3}, arms=["focal"], console=quiet())
    assert trained == []
    with pytest.raises(ValueError, match="nothing to tabulate"):
        compare(finished, base={"epochs": 3}, out=finished.out / "other", jobs=2, seeds=[0], console=quiet())
    assert trained == ["qfl seed 0", "focal seed 0"]


def test_another_split_is_scored_again(finished: ComparisonConfig, trained: list) -> None:
    with pytest.raises(ValueError, match=r"split is 'tset'; the data set has train, val, test"):
        compare(replace(finished, split="tset"), console=quiet())
    with pytest.raises(ValueError, match="nothing to tabulate"):
        compare(replace(finished, split="val"), console=quiet())
    assert len(trained) == 4


def test_tabulating_shows_the_named_arms_without_the_data(
    finished: ComparisonConfig, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.out / "focal" / "seed_1" / "result.json").unlink()
    assert list(compare(finished, arms=["qfl"], console=quiet()).results) == ["qfl", "focal"]
    monkeypatch.setattr(comparing, "open_sources", None)
    assert list(compare(finished, jobs=0, arms=["qfl"], console=quiet()).results) == ["qfl"]
    assert "focal baseline" not in (finished.out / "results.md").read_text()
    report = compare(finished, jobs=0, console=quiet())
    assert [len(runs) for runs in report.results.values()] == [2, 1]
    assert "1 of 2" in (finished.out / "results.md").read_text()
    with pytest.raises(ValueError, match=r"No run in .* is finished, so there is nothing to tabulate"):
        compare(finished, out=finished.out / "elsewhere", jobs=0, console=quiet())
    assert trained == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--jobs", "0"], 0, "QFL baseline"),
        (["--arms", "qlf"], 1, "The comparison has no arm 'qlf'; it has qfl, focal."),
        (["--seeds", "0;1"], 2, "seeds takes a whole number"),
        (["--base.epoch", "3"], 1, "base: There is no option epoch. Did you mean epochs?"),
        (["--base.optimizer.clip", "-1"], 1, "base: optimizer.clip is -1"),
        (["--threads", "0"], 1, "threads is 0"),
        (["--jbos", "2"], 2, "jbos"),
    ],
)
def test_command_tabulates_or_says_what_is_wrong(
    words: list[str],
    code: int,
    message: str,
    finished: ComparisonConfig,
    trained: list,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        found = main(["compare", str(finished.out.parent / "c.yaml"), *words])
    except SystemExit as stopped:
        found = stopped.code
    output = capsys.readouterr()
    assert message in output.out + output.err
    assert found == code
    assert trained == []


def test_command_exits_with_1_when_a_run_fails_and_reports_the_others(
    finished: ComparisonConfig, trained: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_jobs(jobs: list[Job], *_: object) -> list:
        return [comparing.Failure(jobs[0], 1, ("broken",), jobs[0].folder / "log.txt")]

    monkeypatch.setattr(comparing, "run_jobs", run_jobs)
    file = str(finished.out.parent / "c.yaml")
    assert main(["compare", file, "--seeds", "2"]) == 1
    assert "Failed: qfl seed 2" in capsys.readouterr().out
    assert "2 of 3" in (finished.out / "results.md").read_text()
