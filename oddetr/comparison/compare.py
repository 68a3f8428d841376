"""`compare`: train the missing runs of a comparison and write its report."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from oddetr.common.durable import write_file, writing
from oddetr.common.nested import merged, nested
from oddetr.common.terminal import Terminal, print_line
from oddetr.common.untrusted import read_json
from oddetr.comparison.config import SET_HERE, ComparisonConfig, read_config
from oddetr.comparison.jobs import Failure, run_jobs
from oddetr.comparison.records import JOB, RESULT, Job, RunResult, write_json
from oddetr.comparison.report import CONFIGURATION, TABLE, write_report
from oddetr.data.sources import open_sources
from oddetr.training.old_configs import upgraded
from oddetr.training.safety.resume import differences


@dataclass(frozen=True)
class ComparisonReport:
    """The outcome of `compare`.

    Attributes:
        folder: holds results.md, results.json, the figures, and the runs in ARM/seed_K.
        results: finished runs by arm.
        failures: runs of this call that failed.
    """

    folder: Path
    results: dict[str, list[RunResult]]
    failures: list[Failure]


def compare(
    config: ComparisonConfig | Path | str,
    out: Path | str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    base: dict[str, Any] | None = None,
    adopted: Path | str | None = None,
    console: Console | None = None,
) -> ComparisonReport:
    """Train arms with several seeds on equal terms, each run in its own process; write a table and figures.

    Finished runs are kept and interrupted ones resumed, so the same call continues a comparison or renews its report.

    Args:
        config: a comparison, or a YAML file of one.
        out: output folder, instead of the comparison's.
        jobs: concurrent runs; 0 trains nothing and tabulates what has finished, even while another call trains.
        threads: CPU threads of each run.
        seeds: seeds to train, instead of the comparison's.
        arms: train only these arms (the report still holds all that have finished); with `jobs` 0, tabulate only these.
        base: changes to the comparison's base, merged into it; names may be dotted.
        adopted: results.json of another call, whose finished runs of the same configuration count as finished here,
            even if their folders are gone.
        console: where to show progress.

    Raises:
        FileNotFoundError: a file is missing; DataError: the data set has errors.
        ValueError: the comparison is invalid (see `ComparisonConfig`), `out` or `adopted` holds runs of another
            configuration, `adopted` is no results.json, or no run has finished.
    """
    console = console or Terminal()
    config = config if isinstance(config, ComparisonConfig) else read_config(Path(config))
    changes = {"out": out and Path(out), "jobs": jobs, "threads": threads, "seeds": seeds and tuple(seeds)}
    changes = {name: value for name, value in changes.items() if value is not None}
    config = _with_split(replace(config, base=merged(config.base, nested(base or {})), **changes))
    unknown = next((arm for arm in arms or () if arm not in config.arms), None)
    if unknown is not None:
        raise ValueError(f"The comparison has no arm {unknown!r}; it has {', '.join(config.arms)}.")
    only = ["--arms", ",".join(arms)] if arms else []
    command = shlex.join(["oddetr", "compare", str(config.out / CONFIGURATION), *only])
    if adopted:
        print_line(console, f"adopted from {adopted}: {adopt(Path(adopted), config)} runs")
    failures = _train(config, arms or [*config.arms], command, console) if config.jobs else []
    return _report(config, arms, failures, command, console)


def _train(config: ComparisonConfig, arms: Sequence[str], command: str, console: Console) -> list[Failure]:
    """Train the runs of these arms that have not finished."""
    finished = _finished(config)
    _save(_with_seeds_of(config, finished))
    wanted = [_job(config, arm, seed) for arm, seed in config.pairs() if arm in arms]
    missing = [job for job in wanted if job.seed not in {run.seed for run in finished[job.arm]}]
    runs = f"runs to do: {len(missing)} of {len(wanted)}"
    print_line(console, f"{runs}   at a time: {config.jobs}   scored on: {config.split}")
    try:
        return run_jobs(missing, config.jobs, len(wanted) - len(missing), console)
    except KeyboardInterrupt as stopped:
        message = f"Stopped; no run is left running. To continue, or with --jobs 0 to tabulate:\n{command}"
        print_line(console, message)
        raise KeyboardInterrupt(message) from stopped


def _report(
    config: ComparisonConfig, arms: Sequence[str] | None, failures: list[Failure], command: str, console: Console
) -> ComparisonReport:
    """Write the report of the finished runs: of all arms, or without training of the given ones."""
    finished = _finished(config)
    asked = arms or [*config.arms]
    shown = {arm: finished[arm] for arm in config.arms if arm in asked or (finished[arm] and config.jobs)}
    if not any(shown.values()) and not failures:
        raise ValueError(f"No run in {config.out} is finished, so there is nothing to tabulate. Train with --jobs 1.")
    reported = _with_seeds_of(config, finished)
    if config.jobs or not (config.out / CONFIGURATION).exists():
        _save(reported)
    print_line(console, write_report(reported, shown, command))
    if failures:
        names = "; ".join(f"{failure.job.name} ({failure.log})" for failure in failures)
        print_line(console, f"Failed: {names}. To try them again:\n{command}", "red")
    print_line(console, f"report: {config.out / TABLE}")
    return ComparisonReport(config.out, shown, failures)


def adopt(file: Path, config: ComparisonConfig) -> int:
    """Write the jobs and results in `file` to `config.out`, as if the runs had finished there; return their number.

    Runs that `config.out` already has, and arms that the comparison lacks, are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no results.json, or is too old to hold configurations; or a run has another
            configuration (the fields are named), in which case nothing is adopted.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. Give the results.json of a comparison.")
    try:
        content = read_json(file)
        found = [
            (RunResult(arm, int(seed), content["split"], run["epochs"], run["scores"], run["machine"]), entry["terms"])
            for arm, entry in content["arms"].items()
            if arm in config.arms
            for seed, run in entry["seeds"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is no results.json that holds the terms of its runs ({error!r}).") from error
    jobs: list[tuple[RunResult, dict[str, Any], Path]] = []
    for result, terms in found:
        ours = config.train_config(result.arm, result.seed).to_json()
        folder = config.out / result.arm / f"seed_{result.seed}"
        if (folder / JOB).exists():
            continue
        own = {name: ours[name] for name in SET_HERE}
        own |= {"data": ours["data"]} if terms["data"] == Path(ours["data"]).name else {}
        before = upgraded(terms) | own
        different = differences(before, ours)
        if different:
            raise ValueError(
                f"The runs of {result.arm} in {file} had another configuration: {'; '.join(different)}. Nothing was "
                "adopted: undo the change, or omit --adopted."
            )
        jobs.append((result, {"arm": result.arm, "seed": result.seed, "config": before}, folder))
    for result, job, folder in jobs:
        result.write(folder)
        write_json(folder / JOB, job)
    return len(jobs)


def _with_split(config: ComparisonConfig) -> ComparisonConfig:
    """The comparison with its split filled in; the data is not opened to tabulate a known one."""
    if config.split is not None and not config.jobs:
        return config
    first = config.train_config(next(iter(config.arms)), config.seeds[0])
    sources = open_sources(first.data, first.digits, first.seed, first.reading)
    split = config.split or ("test" if "test" in sources else "val")
    if split not in sources:
        raise ValueError(f"split is {split!r}; the data set has {', '.join(sources)}.")
    return replace(config, split=split)


def _job(config: ComparisonConfig, arm: str, seed: int) -> Job:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = max(1, config.jobs)
    threads = config.threads or max(1, cores // at_once)
    assert config.split is not None
    return Job(arm, seed, config.split, at_once, threads, config.train_config(arm, seed))


def _finished(config: ComparisonConfig) -> dict[str, list[RunResult]]:
    """The finished runs of each arm, ordered by seed, including seeds that are not the comparison's."""
    found: dict[str, list[RunResult]] = {}
    for arm in config.arms:
        names = [file.parent.name.removeprefix("seed_") for file in (config.out / arm).glob(f"seed_*/{RESULT}")]
        seeds = sorted({int(name) for name in names if name.isdecimal()} | {*config.seeds})
        results = [_job(config, arm, seed).result() for seed in seeds]
        found[arm] = [result for result in results if result]
    return found


def _with_seeds_of(config: ComparisonConfig, finished: dict[str, list[RunResult]]) -> ComparisonConfig:
    """The comparison that trains everything in the table: with the seeds that other calls have finished."""
    seeds = {run.seed for runs in finished.values() for run in runs}
    return config if seeds <= {*config.seeds} else replace(config, seeds=tuple(sorted(seeds | {*config.seeds})))


def _save(config: ComparisonConfig) -> None:
    """Write the configuration as a file for `compare` that trains: never with `jobs: 0`."""
    content = config.to_json() | {"jobs": config.jobs or 1}
    with writing(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        write_file(config.out / CONFIGURATION, yaml.safe_dump(content, sort_keys=False))
