"""The report of a comparison: results.json, results.md and figures."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from oddetr.common.durable import write_file, writing
from oddetr.comparison.arms import label_of
from oddetr.comparison.config import ComparisonConfig
from oddetr.comparison.figures import FIGURES, draw_figures
from oddetr.comparison.records import RunResult, write_json
from oddetr.comparison.summary import COLUMNS, spread_text, summarise

TABLE, CONTENT, CONFIGURATION = "results.md", "results.json", "comparison.yaml"
_COLUMNS_EXPLAINED = (
    "Mean ± sample standard deviation over seeds. AP and AP50: COCO's, in 0-1, of the last checkpoint on the split "
    "`{split}`; the teacher is the student's EMA. Without duplicates: the teacher's AP after class-wise NMS at IoU "
    "0.6. Instability: normalised, last decoder layer, between validations, mean over the run. Minutes: wall-clock "
    "time of training, without validation."
)
_CARRIED_EXPLAINED = " Carried: share of objects whose teacher's query the student has too, mean over the run."
_TERMS = """\
## Terms

With one seed, all arms start from the same weights and see the same images, {augmentations} order.

- Command: `{command}`, or `oddetr compare {file} --out DIR` with the file beside this one.
{machines}
- Training minutes are comparable only between runs on one machine under equal load.

Options that all arms share, and those that each changes; others have the defaults of `oddetr train`:

```yaml
{options}
```
"""


def write_report(config: ComparisonConfig, runs: Mapping[str, Sequence[RunResult]], command: str) -> str:
    """Write results.json, results.md and the figures of the finished runs of each arm into `config.out`.

    `command` continues the comparison. Returns the tables.
    """
    arms = {arm: _content(config, arm, runs) for arm in runs}
    content = {
        "format": 1,
        "command": command,
        "configuration": config.to_json(),
        "split": config.split,
        "reference": config.reference_arm,
        "arms": arms,
    }
    write_json(config.out / CONTENT, content)
    figures = draw_figures({arm: each for arm, each in runs.items() if each}, config.out)
    tables = _tables(config, arms)
    parts = [tables, *(f"![{FIGURES[name].title}]({name})" for name in figures), _terms(config, runs, command)]
    with writing(config.out):
        write_file(config.out / TABLE, "# Comparison\n\n" + "\n\n".join(parts))
    return tables


def _content(config: ComparisonConfig, arm: str, runs: Mapping[str, Sequence[RunResult]]) -> dict[str, Any]:
    """An arm in results.json."""
    reference = () if arm == config.reference_arm else runs.get(config.reference_arm, ())
    seeds = {run.seed: {"scores": run.scores, "epochs": run.epochs, "machine": run.machine} for run in runs[arm]}
    return {
        "label": label_of(arm),
        "changes": config.changes(arm),
        "terms": config.terms(arm),
        **summarise(runs[arm], reference),
        "seeds": seeds,
    }


def _tables(config: ComparisonConfig, arms: Mapping[str, dict[str, Any]]) -> str:
    """The table of arms, its explanation, and the table of differences, if there are any.

    The column `carried` is shown only if some run's is below 1.
    """
    carried = any(value < 1 for arm in arms.values() for value in arm["summary"]["carried"]["values"])
    columns = {name: column for name, column in COLUMNS.items() if carried or name != "carried"}
    seeds = len(config.seeds)
    rows = [
        (
            arm["label"],
            f"{len(arm['seeds'])} of {seeds}" if len(arm["seeds"]) < seeds else str(seeds),
            *(spread_text(arm["summary"][name], column.decimals) for name, column in columns.items()),
        )
        for arm in arms.values()
    ]
    table = _table(("arm", "seeds", *(column.title for column in columns.values())), rows)
    parts = [table, _COLUMNS_EXPLAINED.format(split=config.split) + (_CARRIED_EXPLAINED if carried else "")]
    differences = [
        (
            arm["label"],
            spread_text(arm["difference"], sign="+"),
            f"{arm['difference']['above']} of {arm['difference']['n']}",
            ", ".join(f"{seed}: {value:+.3f}" for seed, value in arm["difference"]["by_seed"].items()),
        )
        for arm in arms.values()
        if arm["difference"]["n"]
    ]
    if differences:
        header = ("arm", "AP teacher, difference", "above in", "by seed")
        parts += [f"Difference to *{label_of(config.reference_arm)}* with the same seed:", _table(header, differences)]
    return "\n\n".join(parts)


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
    """The section on configuration, command and machines; of several machines, which runs are of which."""
    seeds: dict[str, dict[str, list[str]]] = {}
    for run in (run for each in runs.values() for run in each):
        seeds.setdefault(run.machine, {}).setdefault(run.arm, []).append(str(run.seed))
    whose = {
        machine: "; ".join(f"{arm}: seed {', '.join(each)}" for arm, each in arms.items())
        for machine, arms in seeds.items()
    }
    machines = [f"- Machine: {machine}" + (f" ({runs})" if len(whose) > 1 else "") for machine, runs in whose.items()]
    shown = {"base": config.to_json()["base"], "arms": {arm: config.changes(arm) for arm in runs}}
    options = yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False).rstrip()  # the copy has no aliases
    augmented = any("augment" in changes for changes in shown["arms"].values())
    augmentations = "augmented as each arm says, in the same" if augmented else "augmentations and"
    return _TERMS.format(
        augmentations=augmentations,
        command=command,
        file=CONFIGURATION,
        machines="\n".join(machines),
        options=options,
    )
