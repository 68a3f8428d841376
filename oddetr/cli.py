"""The command line: parse, call, print."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from oddetr import __version__
from oddetr.common.parsing import ConfigFile, Parser, make_parser
from oddetr.common.terminal import Terminal, print_line

_CHECKPOINT = {"help": "a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub"}


def _parser(function: Callable[..., Any], epilog: str | None = None, **positionals: dict[str, Any]) -> Parser:
    """Make the parser of a verb: positionals, and as options the other parameters of its function, whose docstring
    starts with the description."""
    description = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
    parser = make_parser(function.__name__, description, epilog)
    for name, options in positionals.items():
        usual: dict[str, Any] = {"type": Path, "metavar": name.upper()}
        parser.add_argument(name, **usual | options)
    parser.add_function_arguments(function, as_group=False, skip={"console", *positionals})
    return parser


def _table(*columns: str) -> Table:
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def train(arguments: Sequence[str], console: Console) -> int:
    """Train a detector: oddetr train --data DIR."""
    from oddetr.models.families.build import PRESETS, DetectorConfig
    from oddetr.models.transformers.pretrained_models import CATALOGUE
    from oddetr.training.config import TrainConfig
    from oddetr.verbs import train as verb

    parser = make_parser(
        "train", "Trains a detector on a folder of COCO, Pascal VOC or YOLO layout, or on the built-in digits."
    )
    parser.add_argument(
        "--config", action=ConfigFile, help="a YAML file with any of these arguments (see --print-config)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the run in --out")
    parser.add_class_arguments(TrainConfig, skip={"resume"}, fail_untyped=True)
    parser.extend_help("model", f"Trained on COCO: {', '.join(CATALOGUE)}. Presets: {', '.join(PRESETS)}.")
    parser.extend_help("detector", f"Fields: {', '.join(part.name for part in fields(DetectorConfig))}.")
    parser.parse_args(arguments)  # --print-config prints defaults, too
    given = parser.parse_args(arguments, defaults=False).as_dict()
    given.pop("config", None)
    verb(console, **given)
    return 0


def models(arguments: Sequence[str], console: Console) -> int:
    """List the detectors to start from: their size, score, licence, and what is in the cache."""
    from oddetr.models.families.build import PRESETS
    from oddetr.models.transformers.pretrained_models import CATALOGUE, LICENCE

    make_parser("models", "Lists the detectors that `oddetr train --model NAME` starts from.").parse_args(arguments)
    table = _table("model", "trained on", "parameters", "COCO AP", "weights")
    table.columns[0].no_wrap = True
    for name, model in CATALOGUE.items():
        weights = "in the cache" if model.cached else f"{4 * model.parameters} MB"
        table.add_row(name, model.images, f"{model.parameters} M", f"{model.coco_ap:.3f}", weights)
    console.print(table)
    print_line(
        console,
        f"AP on COCO val2017 is the authors' figure. All weights are {LICENCE}, by their model cards.\n"
        "They need transformers (pip install 'oddetr[transformers]') and are downloaded when first used.\n"
        "Another detector of these kinds: --model hf:user/name, or a folder: --model hf:PATH.\n"
        f"Presets, whose backbone alone is pretrained: {', '.join(PRESETS)}.",
    )
    return 0


def evaluate(arguments: Sequence[str], console: Console) -> int:
    """Score a checkpoint on a split: oddetr evaluate CHECKPOINT."""
    from oddetr.prediction.predictor import evaluate as verb

    values = _parser(verb, checkpoint=_CHECKPOINT).values(arguments)
    metrics = verb(**values, console=console)
    print_line(console, f"{values['checkpoint']}, the {values['weights']}'s weights, on {values['split']}, in 0-1")
    table = _table("score", "value")
    for name, value in metrics.to_json().items():
        for part, score in value.items() if isinstance(value, dict) else (("", value),):
            table.add_row(f"AP {part}" if part else name, "-" if score is None else f"{score:.3f}")
    console.print(table)
    return 0


def report(arguments: Sequence[str], console: Console) -> int:
    """Write what a run came to as a page, or compare runs: oddetr report RUN [RUN ...]."""
    from oddetr.reporting.report import report as verb

    runs = {"nargs": "+", "type": str, "metavar": "RUN", "help": "folders that `oddetr train` wrote"}
    values = _parser(verb, runs=runs).values(arguments)
    written = verb(**values, console=console)
    if written.missing:
        print_line(console, written.missing, "yellow")
    print_line(console, f"{written.file}   {written.file.stat().st_size / 2**20:.1f} MB")
    return 0


_OUTPUTS = """\
what is written to OUT, by --formats:
  pictures: NAME.png of each image, small ones enlarged; NAME.mp4 of each video, without sound
  coco: detections.json, with original class ids; a frame of a video is an image with `frame` and `seconds`
  csv: detections.csv: file, frame, seconds, class id, class name, score, left, top, width, height, in pixels
  yolo: labels/ with `class cx cy width height score`, relative to the image, and data.yaml
  labelstudio: labelstudio.json, tasks with predictions, and labelstudio.xml, their labeling interface; of images
  cvat: cvat.xml of the images, cvat_NAME.xml of each video (CVAT 1.1), and cvat_labels.json, the labels of the task

Videos need OpenCV: pip install opencv-python-headless.
"""


def predict(arguments: Sequence[str], console: Console) -> int:
    """Draw and write detections: oddetr predict CHECKPOINT PATH... --out DIR."""
    from oddetr.prediction.predict import predict as verb

    paths = {"nargs": "+", "type": str, "metavar": "PATH", "help": "images, videos, folders (all below) and globs"}
    checkpoint = {"help": f"{_CHECKPOINT['help']}; or a file that `oddetr export` wrote, NAME.onnx"}
    values = _parser(verb, _OUTPUTS, checkpoint=checkpoint, paths=paths).values(arguments)
    report = verb(**values, console=console)
    for reason in report.unreadable.values():
        print_line(console, f"skipped: {reason}", "yellow")
    read = f"{report.images} images" + (f" and {report.frames} frames" if report.frames else "")
    skipped = f", {len(report.unreadable)} files skipped" if report.unreadable else ""
    formats = values["formats"].split(",") if isinstance(values["formats"], str) else values["formats"]
    print_line(console, f"{report.objects} objects in {read}{skipped}: {', '.join(formats)} in {values['out']}")
    return 0 if report.images or report.frames else 1


def convert(arguments: Sequence[str], console: Console) -> int:
    """Read other people's checkpoints: oddetr convert FILE --to DIR."""
    from oddetr.checkpoints.checkpoint import read_info
    from oddetr.checkpoints.conversion import convert as verb

    file = {"help": "the .pth file, or the folder with config.json"}
    folder = verb(**_parser(verb, file=file).values(arguments))
    info = read_info(folder)
    print_line(console, f"{info.detector.summary}, {len(info.classes)} classes: {folder}")
    return 0


def export(arguments: Sequence[str], console: Console) -> int:
    """Write a detector as ONNX, checked against PyTorch: oddetr export CHECKPOINT --out FILE."""
    from oddetr.prediction.onnx import OPSET
    from oddetr.prediction.onnx import export as verb

    parser = _parser(
        verb,
        "Images come as uint8 RGB of one size, padded at the right and the bottom, with the (height, width) of each "
        "without padding; boxes go out relative to the image. examples/detect_with_onnxruntime.py runs such a file.",
        checkpoint=_CHECKPOINT,
    )
    values = parser.values(arguments)
    report = verb(**values)
    size = f"{report.file.stat().st_size / 2**20:.1f} MB"
    print_line(
        console, f"{report.file}   {size}   opset {OPSET}   differs from PyTorch by at most {report.difference:.0e}"
    )
    for side, tensors in (("in", report.inputs), ("out", report.outputs)):
        for name, kind in tensors.items():
            print_line(console, f"  {side:<4}{name:<13}{kind}")
    return 0


def push(arguments: Sequence[str], console: Console) -> int:
    """Upload a detector and its model card to the Hugging Face Hub: oddetr push CHECKPOINT --to USER/NAME."""
    from oddetr.prediction.predictor import push as verb

    print_line(console, verb(**_parser(verb, checkpoint=_CHECKPOINT).values(arguments)))
    return 0


def check(arguments: Sequence[str], console: Console) -> int:
    """Look for faults in a data set: oddetr check DIR."""
    from oddetr.data.doctor.check import check as verb
    from oddetr.data.doctor.check import print_report

    parser = _parser(verb, root={"metavar": "DIR", "help": "a folder of COCO, Pascal VOC or YOLO layout"})
    parser.add_argument("--all", action="store_true", help="list every fault, not the first ten of a kind")
    values = parser.values(arguments)
    every = values.pop("all")
    report = verb(**values, console=console)
    print_report(report, console, every)
    if values["mend"] is not None and report.folder is not None:
        print_line(console, f"A clean copy is in {values['mend']}; changes.txt there lists every change.")
    return 0 if report.ok else 1


def augment(arguments: Sequence[str], console: Console) -> int:
    """Draw training examples as the detector will see them: oddetr augment DIR --out PAGE."""
    from oddetr.reporting.augmented import augment as verb

    data = {"type": str, "metavar": "DIR", "help": "a folder of COCO, Pascal VOC or YOLO layout, or digits"}
    page = verb(**_parser(verb, data=data).values(arguments), console=console)
    print_line(console, f"{page.examples} examples with {page.objects} objects: {page.file}")
    return 0


def digits(arguments: Sequence[str], console: Console) -> int:
    """Write the built-in digit scenes as files in COCO's layout: oddetr digits --out DIR."""
    from oddetr.data.digits import MAX_HEIGHT, MAX_OBJECTS, MIN_HEIGHT, DigitScenes, Split
    from oddetr.data.writer import write_coco

    parser = make_parser(
        "digits", "Writes the built-in digit scenes as PNGs and COCO JSON, to look at or to train others on."
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--split", type=Split, default="val", help="train, val or test")
    parser.add_argument("--count", type=int | None, default=None, help="the first so many scenes; default: all")
    parser.add_argument("--objects", type=tuple[int, int], default=(1, MAX_OBJECTS), help="fewest and most of a scene")
    parser.add_argument(
        "--heights", type=tuple[float, float], default=(MIN_HEIGHT, MAX_HEIGHT), help="of digits, in pixels of 128"
    )
    values = parser.values(arguments)
    split, count = values["split"], values["count"]
    length = count if split == "train" else None
    source = DigitScenes(split, length, objects=values["objects"], heights=values["heights"])
    folder = write_coco(source, values["out"], split, count)
    print_line(console, f"{len(list(folder.iterdir()))} scenes in {folder}")
    return 0


def demo(arguments: Sequence[str], console: Console) -> int:
    """Serve a local web page to try a detector on: oddetr demo CHECKPOINT."""
    from oddetr.web.page import demo as verb

    verb(**_parser(verb, checkpoint=_CHECKPOINT).values(arguments), console=console)
    return 0


_CONFIG_FIELDS = """\
fields of CONFIG, all optional (examples: recipes/compare):
  base: what all arms share, by the names of `oddetr train --print-config`
  arms: a name each, and what it changes: {changeable}; null: the standard arm of that name; `like: NAME` starts from \
one. Default: all standard arms
  seeds: each arm is trained once with each; default: 0, 1, 2
  reference: the arm that the others are compared with; default: qfl, or without it the first
  out: the folder to write to; default: runs/NAME, after the file
  jobs, threads: as the options; default: 1, and the cores shared evenly among jobs
  split: of the final scores; default: test where the data has it, else val

standard arms:
  {standard}
"""


def compare(arguments: Sequence[str], console: Console) -> int:
    """Train arms with several seeds on equal terms: oddetr compare CONFIG."""
    from oddetr.comparison.arms import STANDARD
    from oddetr.comparison.compare import compare as verb
    from oddetr.comparison.config import CHANGEABLE

    fields = _CONFIG_FIELDS.format(standard=", ".join(STANDARD), changeable=", ".join(CHANGEABLE))
    parser = _parser(verb, fields, config={"help": "a YAML file; its fields: see below"})
    report = verb(**parser.values(arguments), console=console)
    return 1 if report.failures else 0


def replay(arguments: Sequence[str], console: Console) -> int:
    """Compute a step again whose loss or gradient was not finite: oddetr replay FILE."""
    from oddetr.training.safety.replay import replay as verb

    found = verb(**_parser(verb, file={"help": "replay_step_N.pt in the run's folder"}).values(arguments))
    print_line(console, "\n".join(found.lines()))
    table = _table("part of the loss", "in the run", *(f"again, {trial.precision}" for trial in found.trials))
    for name, value in found.recorded.items():
        if name.startswith("loss"):
            again = (trial.parts.get(name) for trial in found.trials)
            table.add_row(name, *("-" if each is None else f"{each:.6g}" for each in (value, *again)))
    console.print(table)
    console.print("reproduced" if found.reproduced else "NOT reproduced: in the run something else was not finite")
    return 0 if found.reproduced else 1


VERBS: dict[str, Callable[[Sequence[str], Console], int]] = {
    verb.__name__: verb
    for verb in (
        train,
        models,
        evaluate,
        report,
        predict,
        demo,
        check,
        augment,
        digits,
        compare,
        convert,
        export,
        push,
        replay,
    )
}


_SPIN_COUNT = "30000"
"""How often an idle OpenMP thread polls for work before it sleeps; OpenMP reads it when torch is imported. Its default,
300,000, makes a step 2.6 times slower beside other busy processes; 10,000 makes it 5 % slower on an idle machine (CPU;
docs/performance.md)."""


def _usage() -> str:
    verbs = "\n".join(f"  {name:<10}{verb.__doc__}" for name, verb in VERBS.items())
    codes = "exit codes: 0 done; 1 failed, not reproduced (replay), or data with errors (check); 2 a wrong command"
    more = f"oddetr VERB --help explains one; oddetr --version is {__version__}."
    return f"usage: oddetr VERB ...\n\n{verbs}\n\n{more}\n{codes}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0, 1 for a failure that its message explains, 2 for a wrong command."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    words = list(sys.argv[1:] if arguments is None else arguments)
    console, errors = Terminal(), Terminal(stderr=True)
    if words[:1] == ["--version"]:
        print_line(console, __version__)
        return 0
    if not words or words[0] in ("-h", "--help"):
        print_line(console, _usage())
        return 0 if words else 2
    if words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        print_line(errors, f"oddetr: There is no verb {words[0]!r}.{meant}\n\n{_usage()}")
        return 2
    undecoded = next((word for word in words if re.search("[\ud800-\udfff]", word)), None)
    if undecoded:
        print_line(errors, f"oddetr {words[0]}: {undecoded} is not UTF-8. Give the file or folder another name.")
        return 2
    try:
        return VERBS[words[0]](words[1:], console)
    except KeyboardInterrupt as stopped:
        if not stopped.args:
            print_line(errors, f"oddetr {words[0]}: stopped.")
        return 130
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        if not str(error) or type(error) is RuntimeError:
            raise
        print_line(errors, f"oddetr {words[0]}: {error}", "red")
        return 1


if __name__ == "__main__":
    sys.exit(main())
