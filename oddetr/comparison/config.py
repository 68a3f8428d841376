"""What a comparison is: the content of the file that `oddetr compare` reads."""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from oddetr.training.plan.choice import settled

CHANGEABLE = ("epochs", "optimizer", "loss", "matching", "groups", "distillation", "precision")
"""Fields that may differ between arms; the others make the terms equal."""
LIKE = "like"
_SET_HERE = {"out": "out of the comparison", "seed": "seeds of the comparison", "resume": "nothing: runs always go on"}


@dataclass(frozen=True)
class ComparisonConfig:
    """Arms and seeds, trained on equal terms: of one seed, all arms begin with the same weights and see the same data.

    Attributes:
        base: fields of `TrainConfig` that all arms share, without out, seed and resume.
        arms: by name, what an arm changes of the base (`CHANGEABLE`); dicts are merged. Nothing (None) is the standard
            arm of that name; `like: NAME` begins with a standard arm. Default: all of these.
        seeds: each arm is trained once with each of them.
        reference: the arm that the others are compared with, seed by seed; default: qfl, or without it the first.
        out: the folder to write to; run by run in ARM/seed_K.
        jobs: runs at a time; 0 trains nothing and tabulates what is finished.
        threads: CPU threads of each run; default: the cores shared evenly among `jobs`.
        split: of the final scores; default: test where the data has it, else val.

    Raises:
        ValueError: a value that is out of range; an arm that cannot be trained, changes what must be equal, or is a
            standard one that contradicts the base: named.
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
        for name in self.base.keys() & _SET_HERE.keys():
            raise ValueError(f"base.{name} is set by the comparison; use {_SET_HERE[name]}.")
        if not self.arms:
            raise ValueError("arms is empty; name at least one, or leave it out for the standard arms.")
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}; it must be one of the arms: {', '.join(self.arms)}.")
        shared = _checked(plain(self.base), "base")
        for arm in self.arms:
            self.train_config(arm, self.seeds[0])
        self._refuse_contradictions(shared)

    @property
    def reference_arm(self) -> str:
        """`reference`, or its default."""
        return self.reference or ("qfl" if "qfl" in self.arms else next(iter(self.arms)))

    def changes(self, arm: str) -> dict[str, Any]:
        """What `arm` changes of the base, its standard arm included.

        Raises:
            ValueError: the arm's name is no folder's, it names no standard arm, or it changes what must be equal.
        """
        given = self.arms[arm]
        if not re.fullmatch(r"\w[\w.+-]*", arm, re.ASCII):
            raise ValueError(f"{_arm(arm)}: a name consists of letters, digits, and _ . + - inside; it names a folder.")
        if given is None:
            return _standard(arm, arm)
        if arm in STANDARD:
            raise ValueError(
                f"{_arm(arm)} is a standard arm. Leave it empty to take it as it is, or give changes of it a name of "
                f"their own: my_{arm}: {{{LIKE}: {arm}, ...}}"
            )
        own = {name: value for name, value in given.items() if name != LIKE}
        changes = merged(_standard(arm, given[LIKE]), own) if LIKE in given else own
        for name in changes:
            if name not in CHANGEABLE:
                raise ValueError(
                    f"{_arm(arm)} changes {name}. Arms may change only {', '.join(CHANGEABLE)}, so that all train on "
                    f"equal terms; what all share belongs in base."
                )
        return changes

    def train_config(self, arm: str, seed: int) -> TrainConfig:
        """The configuration of one run.

        Raises:
            ValueError: the arm cannot be trained; names arm and field.
        """
        values = plain(merged(self.base, self.changes(arm)))
        if values.get("data", DIGITS) != DIGITS:
            values["data"] = str(Path(values["data"]).resolve())
        return settled(_checked(values, _arm(arm), seed=seed, out=self.out / arm / f"seed_{seed}", resume=True))

    def _refuse_contradictions(self, shared: TrainConfig) -> None:
        """A standard arm must not quietly undo what the base says; `shared` is the base with its defaults."""
        base, values = flat(nested(plain(self.base))), flat(shared.to_json())
        for arm, given in self.arms.items():
            standard = arm if given is None else given.get(LIKE)
            own = flat(nested(given or {}))
            for name, value in flat(STANDARD[standard].changes if standard else {}).items():
                if name in base and name not in own and values[name] != value:
                    raise ValueError(
                        f"base.{name} is {json.dumps(values[name])}, but {_arm(arm)} sets {name} to "
                        f"{json.dumps(value)}. Move it from base into an arm with `{LIKE}: {standard}`."
                    )

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Every (arm, seed), all arms of the first seed first."""
        return ((arm, seed) for seed in self.seeds for arm in self.arms)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which a file can be written that `read_config` reads."""
        values = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        return plain(values | {"seeds": list(self.seeds)})


def read_config(file: Path) -> ComparisonConfig:
    """Reads a comparison's YAML file; `out` is runs/NAME, after the file, where it says nothing else.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or a field in it is unknown or wrong; names file and field.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. Give a YAML file with base, arms and seeds of a comparison.")
    text = configuration_text(file)
    try:
        content = read_yaml(text)
        if not isinstance(content, dict):
            raise ValueError("there are no fields in it; give base, arms and seeds of a comparison.")
        refuse_imports(content)
        parsed = _parser().parse_object({"out": f"runs/{file.stem}"} | content)
        return ComparisonConfig(**_parser().instantiate(parsed).as_dict())
    except (argparse.ArgumentError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {' '.join(plain_yaml_error(str(error)).split())}") from error


@cache
def _parser() -> Parser:
    parser = Parser(exit_on_error=False, parser_mode=YAML)
    parser.add_class_arguments(ComparisonConfig, fail_untyped=True)
    return parser


@cache
def _train_parser() -> Parser:
    parser = Parser(exit_on_error=False, parser_mode=YAML)
    parser.add_class_arguments(TrainConfig, skip={*_SET_HERE}, fail_untyped=True)
    return parser


def _checked(values: dict[str, Any], where: str, **ours: Any) -> TrainConfig:
    """A run's configuration, with numbers in any notation of YAML; what is wrong is told to be `where`."""
    try:
        parsed = _train_parser().parse_object(values)
        return TrainConfig(**_train_parser().instantiate(parsed).as_dict(), **ours)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error


def _arm(name: str) -> str:
    return f"arm {name!r}"


def _standard(arm: str, name: object) -> dict[str, Any]:
    if name not in STANDARD:
        raise ValueError(f"{_arm(arm)}: there is no standard arm {name!r}; there are {', '.join(STANDARD)}.")
    return STANDARD[str(name)].changes


def plain(value: Any) -> Any:
    """The same with paths as strings, however deep."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return str(value) if isinstance(value, Path) else value
