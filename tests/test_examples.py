"""Every example of the README and the pages holds: Python runs, commands are understood, files are read.

What is checked but not run is in `COMMANDS` and `NOT_RUN`, with the reason.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

import oddetr
from oddetr.cli import VERBS
from oddetr.data.fault_kinds import KINDS
from tests.conftest import tiny_arguments
from tests.data.builders import write_image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHECKED: set[str] = set()
RUN = ("check", "digits", "evaluate", "predict")
"""The verbs that take no time: they are run where what they read is there."""


@dataclass(frozen=True)
class Block:
    """A block of code; one without a language, which only indented ones are, holds commands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for token in MarkdownIt("commonmark").parse(page.read_text()):
            if token.type in ("fence", "code_block") and token.map:
                yield Block(page, token.map[0] + 1, token.info.split(" ")[0], token.content)


def spans() -> Iterator[tuple[str, str]]:
    """(page, code) of all code inside sentences and tables."""
    for page in PAGES:
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
            for child in token.children or ():
                if child.type == "code_inline":
                    yield page.name, " ".join(child.content.split())


@pytest.fixture
def workspace(scenes: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: data, finished runs, pictures, and the repository's own files."""
    for name, target in {
        **dict.fromkeys(("DIR", "cells", "bccd"), scenes),
        **dict.fromkeys(("runs/mine", "runs/digits", "runs/bccd_two_stage", "runs/d_fine/qfl/seed_0", "dino"), trained),
        **{name: ROOT / name for name in ("recipes", "docs", "benchmarks", "examples")},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    write_image(tmp_path / "photos" / "street.jpg", 96, 80)
    write_image(tmp_path / "more" / "road.jpg", 80, 96)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and detectors of the examples in sizes of seconds; what they say is understood as it stands."""
    from oddetr.models.families import build as presets
    from oddetr.training.config import TrainConfig

    train = oddetr.train

    def quick(**given: Any) -> Path:
        TrainConfig.from_plain(given)
        sizes = tiny_arguments(workspace / "cells", workspace / "runs" / "tiny") | {"epochs": 1}
        return train(**sizes | {name: value for name, value in given.items() if name not in sizes})

    monkeypatch.setattr(oddetr, "train", quick, raising=False)
    sizes = tiny_arguments(workspace, workspace)["detector"]
    small = presets.PRESETS["deformable_detr_refine_r50"].override(sizes)
    monkeypatch.setitem(presets.PRESETS, "deformable_detr_refine_r50", small)


class Understood(Exception):
    """Stops a verb when its words are understood."""


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parse the words of a verb, which does not run. Of a training the configuration is made, too, where that needs no
    network."""
    from oddetr import verbs
    from oddetr.common import parsing
    from oddetr.models.transformers.pretrained_models import CATALOGUE

    parse = parsing.Parser.parse_args
    values: dict[str, Any] = {}

    def stop(parser: Any, arguments: Any) -> Any:
        values.update(parser.instantiate(parse(parser, arguments)).as_dict())
        raise Understood

    def stop_training(*_: Any, **__: Any) -> Any:
        raise Understood

    with monkeypatch.context() as patched:
        patched.setattr(verbs, "run", stop_training)
        elsewhere = any(word.startswith("hf:") or word in CATALOGUE for word in words)
        if words[0] != "train" or elsewhere:
            patched.setattr(parsing.Parser, "parse_args", stop)
        with pytest.raises((Understood, SystemExit)) as stopped:
            VERBS[words[0]](words[1:], Console())
    if stopped.type is SystemExit:
        assert {"--help", "--print-config"} & {*words}, f"not understood: oddetr {shlex.join(words)}"
    return values


def check_oddetr(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The long verbs stop when their words, and the files that these name, are understood; the quick ones run. A
    command that stands on several pages is checked once."""
    if shlex.join(words) in CHECKED:
        return
    CHECKED.add(shlex.join(words))
    values = understood(words, monkeypatch)
    if words[0] == "compare" and values:
        from oddetr.common.nested import merged, nested
        from oddetr.comparison.config import read_config

        config = read_config(values["config"])
        config = replace(config, base=merged(config.base, nested(values["base"] or {})))
        assert {*(values["arms"] or ["qfl"])} <= config.arms.keys()
        assert values["adopted"] is None or Path(values["adopted"]).parts[0] == "runs" or values["adopted"].exists()
    read = [values.get("checkpoint"), values.get("root"), *(values.get("paths") or ())]
    if words[0] in RUN and all(list(Path().glob(str(path))) for path in read if path):
        assert VERBS[words[0]](words[1:], Console()) == 0


def check_make(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Installs, or takes minutes: only its targets are looked up."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= {*targets}


def check_pip(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Needs a network: only its extras are looked up."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for asked in re.findall(r"\[(.*?)\]", " ".join(words)):
        assert {*asked.split(",")} <= extras.keys()


def check_script(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Takes minutes: only the file and its options are looked up, also in the files that the benchmarks share; of tests
    (-m pytest) the files."""
    if words[:2] == ["-m", "pytest"]:
        named = [word for word in words[2:] if word.startswith("tests")]
        assert named
        assert all((ROOT / name).exists() for name in named)
        return
    file = f"{words[1].replace('.', '/')}/__main__.py" if words[0] == "-m" else words[0]
    assert (ROOT / file).is_file()
    assert {word for word in words if word.startswith("--")} <= options_of_benchmarks()


def options_of_benchmarks() -> set[str]:
    return {*re.findall(r'"(--[\w-]+)"', "".join(file.read_text() for file in (ROOT / "benchmarks").rglob("*.py")))}


def check_import(words: list[str], _: pytest.MonkeyPatch) -> None:
    """A line of Python."""
    pytest.importorskip("transformers")
    exec(shlex.join(["from", *words]), {})


def check_torchrun(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for other machines: torchrun and the verb that it starts must understand their words."""
    from torch.distributed.run import parse_args

    found = parse_args(words)
    assert (found.module, found.training_script) == (True, "oddetr.cli")
    check_oddetr(found.training_script_args, monkeypatch)


def unchecked(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Other people's programs, which need a network, a browser or a repository's hooks."""


COMMANDS: dict[str, Callable[[list[str], pytest.MonkeyPatch], None]] = {
    "oddetr": check_oddetr,
    "make": check_make,
    "pip": check_pip,
    "python": check_script,
    "from": check_import,
    "torchrun": check_torchrun,
    **dict.fromkeys(
        (".venv/bin/pre-commit", "export", "hf", "label-studio", "mlflow", "tensorboard", "uvicorn", "wandb"), unchecked
    ),
}
"""How a command is checked, by its first word. What is not run: the check's docstring says why."""

NOT_RUN = {"push_to_hub(": "needs the Hugging Face Hub"}
"""Python that is compiled only: what it holds, and why."""


def check_commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            assert words[0] in COMMANDS, f"no check for {words[0]!r}: tag the block, or add one to COMMANDS"
            COMMANDS[words[0]](words[1:], monkeypatch)


def check_yaml(block: Block, _: pytest.MonkeyPatch) -> None:
    from oddetr.comparison.config import read_config
    from oddetr.data.doctor.check import check
    from oddetr.training.config import TrainConfig

    content = yaml.safe_load(block.text)
    if "names" in content:
        for split in ("train", "val"):
            image = write_image(Path("yolo") / content.get("path", ".") / content[split] / f"{split}.jpg")
            label = Path(str(image).replace("images", "labels")).with_suffix(".txt")
            label.parent.mkdir(parents=True)
            label.write_text("0 0.5 0.5 0.25 0.25\n")
        Path("yolo/data.yaml").write_text(block.text)
        assert check("yolo").ok
    elif "arms" in content:
        Path("compare.yaml").write_text(block.text)
        assert read_config(Path("compare.yaml")).reference_arm
    else:
        TrainConfig.from_plain(content)


def check_python(block: Block, _: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"loader": loader()} if "loader" in block.text else {}
    program = compile(block.text, str(block), "exec")
    if any(part in block.text for part in NOT_RUN):
        return
    exec(program, names)
    if "task" in names:
        assert names["task"].teacher.steps == 2
        for model in (names["detector"], names["task"].teacher.detector):
            assert not model.decoder.heads[0].boxes.layers[-1].weight.eq(0).all(), (
                "official heads begin at 0: nothing was learned"
            )


def loader() -> Any:
    """Two batches of four scenes."""
    from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
    from oddetr.data.sources import open_sources
    from oddetr.data.transforms import EvalTransform

    source = open_sources("cells")["train"]
    images = TransformedDataset(source, EvalTransform(64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    return make_loader(images, EpochSampler(len(source)), 4, 0)


CHECKS: dict[str, Callable[[Block, pytest.MonkeyPatch], object]] = {
    "": check_commands,
    "sh": check_commands,
    "python": check_python,
    "yaml": check_yaml,
    "json": lambda block, _: json.loads(block.text),
    "xml": lambda block, _: ElementTree.fromstring(block.text),
    **dict.fromkeys(("text", "bibtex"), lambda block, _: None),
}
"""By language. `text` and `bibtex` are no programs: formulas, output, folders, citations."""


@pytest.mark.parametrize("block", list(blocks()), ids=str)
def test_code_block_holds(block: Block, workspace: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block.language in CHECKS, f"{block}: no check for the language {block.language!r}; what is none is text"
    CHECKS[block.language](block, monkeypatch)


def test_commands_inside_sentences_are_understood(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {code for _, code in spans() if code.startswith("oddetr ") and len(code.split()) > 2}
    commands = {code for code in commands if "VERB" not in code and code.split()[1] in VERBS}
    assert commands
    for code in sorted(commands):
        understood(shlex.split(code)[1:], monkeypatch)


def test_options_inside_sentences_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from lightning.pytorch import Trainer

    from oddetr.models.families.build import DetectorConfig

    for verb in VERBS:
        with pytest.raises(SystemExit):
            VERBS[verb](["--help"], Console())
    known = {*re.findall(r"--[\w.-]+", capsys.readouterr().out)}
    known |= {f"--detector.{name}".replace("_", "-") for name in DetectorConfig.__dataclass_fields__}
    known |= {f"--trainer.{name}".replace("_", "-") for name in Trainer.__init__.__annotations__}
    known |= {f"--base.{name[2:]}" for name in known} | {"--golden", "--node-rank", "--nproc-per-node"}
    known |= options_of_benchmarks()
    named = {
        (page, option.rstrip("."))
        for page, code in spans()
        for option in re.findall(r"(?:^|(?<= ))--[\w.-]+", code)
        if "NAME" not in option
    }
    assert len(named) > 50
    assert sorted((page, option) for page, option in named if option.replace("_", "-") not in known) == []


def test_errors_on_the_troubleshooting_page_are_those_of_the_source() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    source = "".join(file.read_text() for file in (ROOT / "oddetr").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    source = re.sub(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}", "...", source).replace("Lightning's", "Lightning's")
    headings = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert len(headings) > 40
    words = {(heading, part.strip(" .;")) for heading in headings for part in heading.split("...")}
    others = ("CUDA out of memory",)
    unknown = [(heading, part) for heading, part in sorted(words) if part not in source and heading not in others]
    assert unknown == []
    kinds = re.findall(r"^\| ([a-z].*?) \|", page.split("| words |")[1].split("###")[0], re.MULTILINE)
    assert {kind for row in kinds for kind in row.split(", ")} == {
        kind.named(1) for kind in KINDS.values() if kind.severity == "error"
    }
