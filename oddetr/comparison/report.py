"""The report of a comparison: results.json, results.md and figures."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from oddetr.common.durable import write_file, writing
from oddetr.comparison.adopted import shareable_terms
from oddetr.comparison.config import ComparisonConfig
from oddetr.comparison.figures import FIGURES, draw_figures
from oddetr.comparison.records import RunResult, write_json
from oddetr.comparison.summary import COLUMNS, ArmSummary, Spread, summarise

TABLE, CONTENT, CONFIGURATION = "results.md", "results.json", "comparison.yaml"


def write_report(config: ComparisonConfig, runs: Mapping[str, Sequence[RunResult]], command: str) -> str:
    """Write results.json, results.md and the figures into `config.out`, and return the tables.

    Args:
        config: the comparison.
        runs: the finished runs of each arm to show, at most one per seed.
        command: the command that continues the comparison.
    """
    reference = config.reference_arm
    summaries = [
        summarise(arm, each, [] if arm == reference else runs.get(reference, [])) for arm, each in runs.items()
    ]
    write_json(config.out / CONTENT, _content(config, runs, summaries, command))
    figures = draw_figures({arm: each for arm, each in runs.items() if each}, config.out)
    tables = _tables(config, summaries)
    parts = [tables, *(f"![{FIGURES[name].title}]({name})" for name in figures), _terms(config, runs, command)]
    with writing(config.out):
        write_file(config.out / TABLE, "# Comparison\n\n" + "\n\n".join(parts) + "\n")
    return tables


def _content(
    config: ComparisonConfig,
    runs: Mapping[str, Sequence[RunResult]],
    summaries: Sequence[ArmSummary],
    command: str,
) -> dict[str, Any]:
    arms = {
        summary.arm: {
            "label": summary.label,
            "changes": config.changes(summary.arm),
            "terms": shareable_terms(config, summary.arm),
            "summary": {name: _plain(spread) for name, spread in summary.spreads.items()},
            "difference": _plain(summary.difference) | {"above": summary.above, "by_seed": summary.differences},
            "seeds": {
                str(run.seed): {"scores": run.scores, "epochs": run.epochs, "machine": run.machine}
                for run in runs[summary.arm]
            },
        }
        for summary in summaries
    }
    return {
        "format": 1,
        "command": command,
        "configuration": config.to_json(),
        "split": config.split,
        "reference": config.reference_arm,
        "arms": arms,
    }


def _plain(spread: Spread) -> dict[str, Any]:
    return {"mean": spread.mean, "deviation": spread.deviation, "n": len(spread.values), "values": [*spread.values]}


def _tables(config: ComparisonConfig, summaries: Sequence[ArmSummary]) -> str:
    """The table of arms, its explanation, and the differences. `carried` is shown only if some run's is below 1."""
    carried = any(value < 1 for each in summaries for value in each.spreads["carried"].values)
    columns = {name: column for name, column in COLUMNS.items() if carried or name != "carried"}
    seeds = len(config.seeds)
    rows = [
        (
            each.label,
            f"{len(each.seeds)} of {seeds}" if len(each.seeds) < seeds else str(seeds),
            *(each.spreads[name].text(column.decimals) for name, column in columns.items()),
        )
        for each in summaries
    ]
    table = _table(("arm", "seeds", *(column.title for column in columns.values())), rows)
    return "\n\n".join([table, _explanation(config.split, carried), *_differences(config, summaries)])


def _explanation(split: str | None, carried: bool) -> str:
    text = (
        f"Mean ± sample standard deviation over seeds. AP and AP50: COCO's, in 0-1, of the last checkpoint on the "
        f"split `{split}`; the teacher is the student's EMA. Without duplicates: the teacher's AP after class-wise NMS "
        "at IoU 0.6. Instability: normalised, last decoder layer, between validations, mean over the run. "
        "Minutes: wall-clock time of training, without validation."
    )
    if carried:
        text += " Carried: share of objects whose teacher's query the student has too, mean over the run."
    return text


def _differences(config: ComparisonConfig, summaries: Sequence[ArmSummary]) -> list[str]:
    """The table of differences to the reference arm, if there are any."""
    rows = [
        (
            each.label,
            each.difference.text(sign="+"),
            f"{each.above} of {len(each.differences)}",
            ", ".join(f"{seed}: {value:+.3f}" for seed, value in each.differences.items()),
        )
        for each in summaries
        if each.differences
    ]
    if not rows:
        return []
    label = next(each.label for each in summaries if each.arm == config.reference_arm)
    columns = ("arm", "AP teacher, difference", "above in", "by seed")
    return [f"Difference to *{label}* with the same seed:", _table(columns, rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns, the first left-aligned."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = (
        [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        for row in (columns, rule, *rows)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _terms(config: ComparisonConfig, runs: Mapping[str, Sequence[RunResult]], command: str) -> str:
    """The section on configuration, command and machines."""
    machines: dict[str, dict[str, list[str]]] = {}
    for arm, each in runs.items():
        for run in each:
            machines.setdefault(run.machine, {}).setdefault(arm, []).append(str(run.seed))
    shown = {"base": config.to_json()["base"], "arms": {arm: config.changes(arm) for arm in runs}}
    return "\n".join(
        [
            "## Terms",
            "",
            "With one seed, all arms start from the same weights and see the same images, augmentations and order.",
            "",
            f"- Command: `{command}`, or `oddetr compare {CONFIGURATION} --out DIR` with the file beside this one.",
            *(f"- Machine: {machine}{_whose(on) if len(machines) > 1 else ''}" for machine, on in machines.items()),
            "- Training minutes are comparable only between runs on one machine under equal load.",
            "",
            "Options that all arms share, and those that each changes; others have the defaults of `oddetr train`:",
            "",
            "```yaml",
            yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False).rstrip(),  # the copy has no aliases
            "```",
        ]
    )


def _whose(seeds: Mapping[str, Sequence[str]]) -> str:
    """The seeds of each arm, in parentheses."""
    return f" ({'; '.join(f'{arm}: seed ' + ', '.join(each) for arm, each in seeds.items())})"
