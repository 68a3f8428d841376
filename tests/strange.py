"""Files as a stranger might write them: pickles that run code, and checkpoints with hostile names."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddetr.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from oddetr.cli import main
from oddetr.data.dataset import ClassTable
from oddetr.models.families.build import DetectorConfig, build_detector
from tests.helpers import without_checksums

SMALL = DetectorConfig(
    "refine", "test_efficientnet", False, 32, 4, 32, encoder_layers=1, decoder_layers=2, num_queries=12, dropout=0.0
)


STRANGE_MODULE = "from pathlib import Path\nPath({!r}).touch()\nclass Bomb: pass\n"
HOSTILE = (
    "../../up",
    "/tmp/oddetr-root",
    "a/b",
    "..",
    "<script>alert(1)</script>",
    "$x^{$",
    "{{ 7*7 }}",
    "n" * 300,
)
"""Names of classes."""


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def armed(folder: Path) -> Path:
    """The file that a Bomb makes when it is read carelessly; checks that it does."""
    file = folder / "exploded"
    pickle.loads(pickle.dumps(Bomb(file)))
    assert file.exists(), "the pickle is harmless: nothing would be tested"
    file.unlink()
    return file


def hostile_checkpoint(folder: Path) -> Path:
    """Write a detector with random weights whose classes have hostile names."""
    detector = build_detector(SMALL, len(HOSTILE))
    names = ClassTable(HOSTILE, tuple(range(len(HOSTILE))))
    save_checkpoint(folder, {"teacher": detector}, CheckpointInfo(SMALL, names, 64, detector.mean, detector.std))
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with an explanation, and return that."""
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr()
    assert status in (1, 2), told
    assert "weights_only=False" not in told.err
    return " ".join(told.err.split())


def changed(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's description, and drop its checksums."""
    file = checkpoint / "checkpoint.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    without_checksums(checkpoint)


def rewritten(file: Path, content: Any) -> None:
    """The file with these changes; or with this content, which is no object."""
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | content if isinstance(content, dict) else content))
