"""`compare`: trains what is missing of a comparison, and writes its report."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from oddetr.common.durable import write_file, writing
from oddetr.common.nested import merged, nested
from oddetr.common.terminal import Terminal
from oddetr.comparison.adopted import adopt
from oddetr.comparison.config import ComparisonConfig, plain, read_config
from oddetr.comparison.jobs import Failure, run_jobs
from oddetr.comparison.records import RESULT, Job, RunResult
from oddetr.comparison.report import CONFIGURATION, TABLE, write_report
from oddetr.data.dataset import Source
from oddetr.data.sources import open_sources


@dataclass(frozen=True)
class ComparisonReport:
    """What `compare` left.

    Attributes:
        folder: with results.md, results.json, figures, and the runs in ARM/seed_K.
        results: finished runs, by arm.
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
    """Trains arms with several seeds on equal terms, each run in a process of its own; tabulates and plots them.

    Finished runs are not run again, and stopped ones go on, so the same call goes on with a comparison, or renews its
    report. The report holds all finished runs of the comparison's arms in `out`, but for `arms`.

    Args:
        config: a comparison, or a YAML file of one.
        out: the folder to write to, instead of the comparison's.
        jobs: runs at a time; 0 trains nothing and tabulates what is finished, also while another call trains.
        threads: CPU threads of each run.
        seeds: train these, instead of the comparison's.
        arms: train only these of the comparison's arms; with `jobs` 0, tabulate only these.
        base: changes of the comparison's base, merged into it; names may be dotted.
        adopted: results.json of another call, whose finished runs of the same configuration need not be trained again
            even if their folders are gone.
        console: where progress goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the comparison has a fault (see `ComparisonConfig`), `out` or `adopted` holds runs of another
            configuration, `adopted` is no results.json, or there is nothing to tabulate.
        DataError: the data set has errors.
    """
    console = console or Terminal()
    say = partial(console.print, highlight=False, soft_wrap=True)
    given = config if isinstance(config, ComparisonConfig) else read_config(Path(config))
    changes = {"out": out and Path(out), "jobs": jobs, "threads": threads, "seeds": seeds and tuple(seeds)}
    changes = {name: value for name, value in changes.items() if value is not None}
    chosen = replace(given, base=merged(given.base, nested(base or {})), **changes)
    asked = _known_arms(chosen, arms)
    sources = _sources(chosen) if chosen.jobs or chosen.split is None else {}
    chosen = replace(chosen, split=_split(chosen, sources))
    command = _command(config, chosen, changes, arms, base)
    if adopted:
        say(f"taken over from {adopted}: {adopt(Path(adopted), chosen)} runs")
    finished = _finished(chosen)
    failures: list[Failure] = []
    if chosen.jobs:
        wanted = [_job(chosen, arm, seed) for arm, seed in chosen.pairs() if arm in asked]
        missing = [job for job in wanted if job.seed not in {run.seed for run in finished[job.arm]}]
        _save(_with_seeds_of(chosen, finished))
        say(f"runs to do: {len(missing)} of {len(wanted)}   at a time: {chosen.jobs}   scored on: {chosen.split}")
        try:
            failures = run_jobs(missing, chosen.jobs, len(wanted) - len(missing), len(sources["train"]), console)
        except KeyboardInterrupt as stopped:
            told = f"Stopped; no run is left running. The same command goes on, and with --jobs 0 tabulates:\n{command}"
            say(told)
            raise KeyboardInterrupt(told) from stopped
        finished = _finished(chosen)
    shown = {arm: finished[arm] for arm in chosen.arms if arm in asked or (finished[arm] and chosen.jobs)}
    if not any(shown.values()) and not failures:
        raise ValueError(f"No run in {chosen.out} is finished, so there is nothing to tabulate. Train with --jobs 1.")
    reported = _with_seeds_of(chosen, finished)
    if chosen.jobs or not (chosen.out / CONFIGURATION).exists():
        _save(reported)
    say(write_report(reported, shown, len(reported.seeds), command))
    if failures:
        names = "; ".join(f"{failure.job.name} ({failure.log})" for failure in failures)
        say(f"Failed: {names}. The same command tries them again:\n{command}", style="red")
    say(f"report: {chosen.out / TABLE}")
    return ComparisonReport(chosen.out, shown, failures)


def _known_arms(config: ComparisonConfig, arms: Sequence[str] | None) -> list[str]:
    for arm in arms or ():
        if arm not in config.arms:
            raise ValueError(f"The comparison has no arm {arm!r}; it has {', '.join(config.arms)}.")
    return list(arms or config.arms)


def _sources(config: ComparisonConfig) -> dict[str, Source]:
    first = config.train_config(next(iter(config.arms)), config.seeds[0])
    return open_sources(first.data, first.digits, first.seed, first.allow_outside)


def _split(config: ComparisonConfig, sources: dict[str, Source]) -> str:
    """The split of the final scores."""
    if config.split is None:
        return "test" if "test" in sources else "val"
    if sources and config.split not in sources:
        raise ValueError(f"split is {config.split!r}; the data set has {', '.join(sources)}.")
    return config.split


def _job(config: ComparisonConfig, arm: str, seed: int) -> Job:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = max(1, config.jobs)
    threads = config.threads or max(1, cores // at_once)
    assert config.split is not None
    return Job(arm, seed, config.split, at_once, threads, config.train_config(arm, seed))


def _finished(config: ComparisonConfig) -> dict[str, list[RunResult]]:
    """The finished runs of every arm, by seed; those of other seeds than the comparison's too."""
    found: dict[str, list[RunResult]] = {}
    for arm in config.arms:
        names = [file.parent.name.removeprefix("seed_") for file in (config.out / arm).glob(f"seed_*/{RESULT}")]
        seeds = sorted({int(name) for name in names if name.isdecimal()} | {*config.seeds})
        results = [_job(config, arm, seed).result() for seed in seeds]
        found[arm] = [result for result in results if result]
    return found


def _with_seeds_of(config: ComparisonConfig, finished: dict[str, list[RunResult]]) -> ComparisonConfig:
    """What trains all that the table shows: the seeds that other calls finished too."""
    there = {run.seed for runs in finished.values() for run in runs}
    return config if there <= {*config.seeds} else replace(config, seeds=tuple(sorted(there | {*config.seeds})))


def _save(config: ComparisonConfig) -> None:
    """Writes the whole configuration, as a file that `compare` reads and that trains: not with `jobs: 0`."""
    content = config.to_json() | {"jobs": config.jobs or 1}
    with writing(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        write_file(config.out / CONFIGURATION, yaml.safe_dump(content, sort_keys=False))


def _command(
    config: ComparisonConfig | Path | str,
    chosen: ComparisonConfig,
    changes: dict[str, Any],
    arms: Sequence[str] | None,
    base: dict[str, Any] | None,
) -> str:
    """What to type to train the same again."""
    if isinstance(config, ComparisonConfig):
        return shlex.join(["oddetr", "compare", str(chosen.out / CONFIGURATION)])
    words = ["oddetr", "compare", str(config)]
    lists = {"seeds": changes.get("seeds"), "arms": arms}
    single = {name: changes.get(name) for name in ("out", "jobs", "threads")}
    flags = single | {name: values and ",".join(map(str, values)) for name, values in lists.items()}
    flags["base"] = yaml.safe_dump(plain(base), default_flow_style=True, width=10**6).strip() if base else None
    return shlex.join([*words, *(word for name, value in flags.items() if value for word in (f"--{name}", str(value)))])
