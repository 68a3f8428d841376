"""Configuration of a comparison, and the YAML file that `oddetr compare` reads."""

import argparse
import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from oddetr.common.nested import flat, merged, nested
from oddetr.common.parsing import YAML, Parser, configuration_text, plain_yaml_error, read_yaml
from oddetr.common.untrusted import refuse_imports
from oddetr.comparison.arms import STANDARD
from oddetr.data.sources import DIGITS
from oddetr.training.config import TrainConfig
from oddetr.training.old_configs import upgraded
from oddetr.training.plan.choice import with_fixed_defaults

CHANGEABLE = ("epochs", "optimizer", "loss", "matching", "groups", "distillation", "augment", "precision")
"""Fields that may differ between arms; all others must be equal."""
LIKE = "like"
SET_HERE = {
    "out": "out of the comparison",
    "seed": "seeds of the comparison",
    "resume": "nothing: runs always go on",
    "hours": "epochs: all arms make as many steps",
}
"""Fields of a run that the comparison sets, and what to use instead."""


@dataclass(frozen=True)
class ComparisonConfig:
    """Arms and seeds to train on equal terms: with one seed, all arms share initial weights and data order.

    Attributes:
        base: fields of `TrainConfig` that all arms share, except out, seed, resume and hours.
        arms: by name, an arm's changes to the base (`CHANGEABLE`); dicts are merged. None stands for the standard arm
            of that name; `like: NAME` starts from a standard arm. Default: all standard arms.
        seeds: each arm is trained once per seed.
        reference: the arm that the others are compared with, seed by seed; default: qfl, or else the first.
        out: output folder; each run writes to ARM/seed_K in it.
        jobs: concurrent runs; 0 trains nothing and tabulates what is finished.
        threads: CPU threads of each run; default: the cores divided by `jobs`.
        split: the split for the final scores; default: test if the data has it, else val.

    Raises:
        ValueError: a value is out of range; or an arm cannot be trained, changes a field that must be equal, or is a
            standard arm that overrides the base. The message names arm and field.
    """

    base: dict[str, Any] = field(default_factory=dict[str, Any])
    arms: dict[str, dict[str, Any] | None] = field(default_factory=lambda: dict.fromkeys(STANDARD))
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str | None = None
    out: Path = Path("runs/comparison")
    jobs: int = 1
    threads: int | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give at least one, from 0 on, none twice.")
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; it must be at least 1, or 0 to tabulate what is finished.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1.")
        for name in self.base.keys() & SET_HERE.keys():
            raise ValueError(f"base.{name} is set by the comparison; use {SET_HERE[name]}.")
        if not self.arms:
            raise ValueError("arms is empty; name at least one, or leave it out for the standard arms.")
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}; it must be one of the arms: {', '.join(self.arms)}.")
        shared = _train_config(self.base, "base")
        for arm in self.arms:
            self.train_config(arm, self.seeds[0])
        self._refuse_contradictions(shared)

    @property
    def reference_arm(self) -> str:
        """`reference`, or its default."""
        return self.reference or ("qfl" if "qfl" in self.arms else next(iter(self.arms)))

    def changes(self, arm: str) -> dict[str, Any]:
        """The changes that `arm` makes to the base, including those of its standard arm."""
        given = self.arms[arm]
        if not re.fullmatch(r"\w[\w.+-]*", arm, re.ASCII):
            raise ValueError(f"arm {arm!r}: a name consists of letters, digits, and _ . + - inside; it names a folder.")
        if given is not None and arm in STANDARD:
            raise ValueError(
                f"arm {arm!r} is a standard arm. Leave it empty to take it as it is, or give changes of it a name of "
                f"their own: my_{arm}: {{{LIKE}: {arm}, ...}}"
            )
        standard = self._standard(arm)
        if standard is not None and standard not in STANDARD:
            raise ValueError(f"arm {arm!r}: there is no standard arm {standard!r}; there are {', '.join(STANDARD)}.")
        own = {name: value for name, value in (given or {}).items() if name != LIKE}
        changes = merged(STANDARD[standard].changes if standard else {}, own)
        fixed = next((name for name in changes if name not in CHANGEABLE), None)
        if fixed:
            raise ValueError(
                f"arm {arm!r} changes {fixed}. Arms may change only {', '.join(CHANGEABLE)}, so that all train on "
                "equal terms; put options that all share into base."
            )
        return changes

    def train_config(self, arm: str, seed: int) -> TrainConfig:
        """The configuration of one run."""
        values = merged(self.base, self.changes(arm))
        if str(values.get("data", DIGITS)) != DIGITS:
            values["data"] = Path(values["data"]).resolve()
        shared = _train_config(values, f"arm {arm!r}")
        return with_fixed_defaults(replace(shared, seed=seed, out=self.out / arm / f"seed_{seed}", resume=True))

    def terms(self, arm: str) -> dict[str, Any]:
        """The configuration that all runs of an arm share; the data's folder is reduced to its name."""
        values = self.train_config(arm, self.seeds[0]).to_json()
        shared = {name: value for name, value in values.items() if name not in SET_HERE}
        return shared | {"data": Path(values["data"]).name}

    def pairs(self) -> list[tuple[str, int]]:
        """All pairs (arm, seed), seed by seed."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, which `read_config` reads from YAML."""
        return json.loads(json.dumps(vars(self), default=str))

    def _standard(self, arm: str) -> str | None:
        """The name of the standard arm that `arm` is or starts from."""
        given = self.arms[arm]
        return arm if given is None else str(given[LIKE]) if LIKE in given else None

    def _refuse_contradictions(self, shared: TrainConfig) -> None:
        """Refuse a standard arm that would silently override the base; `shared` is the base with its defaults."""
        base, values = flat(nested(self.base)), flat(shared.to_json())
        for arm, given in self.arms.items():
            standard, own = self._standard(arm), flat(nested(given or {}))
            for name, value in flat(STANDARD[standard].changes if standard else {}).items():
                if name in base and name not in own and values[name] != value:
                    raise ValueError(
                        f"base.{name} is {json.dumps(values[name])}, but arm {arm!r} sets {name} to "
                        f"{json.dumps(value)}. Move it from base into an arm with `{LIKE}: {standard}`."
                    )


def read_config(file: Path) -> ComparisonConfig:
    """Read the YAML file of a comparison; `out` defaults to runs/NAME, after the file's name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or a field is unknown or invalid; the message names file and field.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. Give a YAML file with base, arms and seeds of a comparison.")
    text = configuration_text(file)
    try:
        content = read_yaml(text)
        if not isinstance(content, dict):
            raise ValueError("there are no fields in it; give base, arms and seeds of a comparison.")
        refuse_imports(content)
        parser = _parser(ComparisonConfig)
        parsed = parser.parse_object({"out": f"runs/{file.stem}"} | content)
        return ComparisonConfig(**parser.instantiate(parsed).as_dict())
    except (argparse.ArgumentError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {' '.join(plain_yaml_error(str(error)).split())}") from error


@cache
def _parser(kind: type[ComparisonConfig] | type[TrainConfig]) -> Parser:
    parser = Parser(exit_on_error=False, parser_mode=YAML)
    parser.add_class_arguments(kind, skip={*SET_HERE} if kind is TrainConfig else set(), fail_untyped=True)
    return parser


def _train_config(values: dict[str, Any], where: str) -> TrainConfig:
    """Parse a run's configuration, with numbers in any YAML notation; `where` prefixes error messages."""
    try:
        return _parsed(json.dumps(values, default=str))
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error


@cache
def _parsed(values: str) -> TrainConfig:
    parser = _parser(TrainConfig)
    parsed = parser.parse_object(upgraded(nested(json.loads(values))))
    return TrainConfig(**parser.instantiate(parsed).as_dict())
