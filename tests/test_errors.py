"""The likeliest errors, as users read them: each says what was found, where, and what to do.

Update tests/errors.txt, and read the difference: ODDETR_SNAPSHOT=write python -m pytest tests/test_errors.py
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from oddetr.cli import main
from tests.helpers import without_checksums

SNAPSHOT = Path(__file__).with_name("errors.txt")
TINY = "--detector.backbone test_efficientnet --detector.pretrained false --trainer.accelerator cpu"
WRONG = {
    "option": b"epoch: 3",
    "group": b"optimizer: {lr: 3}",
    "value": b"epochs: many",
    "no_group": b"optimizer: 3",
    "detector": b"detector: 3",
    "yaml": b"epochs: [3",
    "list": b"- epochs",
    "encoding": b"data: \xff",
    "arms": b"base: {epoch: 3}",
}
"""Configuration files."""
COMMANDS = (
    "oddetr tarin --data scenes",
    "oddetr train --data nowhere",
    "oddetr train --data photos",
    "oddetr train --data broken",
    "oddetr train --data unlabelled",
    "oddetr train --data scenes --epoch 3",
    "oddetr train scenes --epochs 3",
    "oddetr train --data scenes --epochs 0",
    "oddetr train --data scenes --epochs many",
    "oddetr train --data scenes --precision fp8",
    "oddetr train --data scenes --distillation.enabled maybe",
    "oddetr train --data scenes --model yolo",
    f"oddetr train --data scenes --precision fp16 {TINY}",
    "oddetr train --data scenes --init nowhere",
    "oddetr train --data scenes --trainer.max_epochs 3",
    "oddetr train --data scenes --trainer.gpus 3",
    "oddetr train --data scenes --trainer.limit_val_batches -1",
    "oddetr train --data scenes --trainer.devices abc",
    "oddetr train --data scenes --optimizer 3",
    "oddetr train --data scenes --detector.num_queries many",
    *(f"oddetr train --data scenes --config wrong/{name}.yaml" for name in WRONG),
    "oddetr compare wrong/yaml.yaml",
    "oddetr compare wrong/arms.yaml",
    "oddetr compare wrong/encoding.yaml",
    "oddetr train --data scenes --loggers comet",
    "oddetr train --data scenes --detector.num_querys 10",
    "oddetr train --data scenes --distillation.auxiliary.weight -1",
    "oddetr train --data scenes --out run",
    "oddetr train --data scenes --out run --resume --epochs 7",
    "oddetr train --out run --resume --seed 0 --precision bf16",
    "oddetr train --data scenes --resume",
    "oddetr evaluate nowhere",
    "oddetr evaluate photos",
    "oddetr evaluate run --split holdout",
    "oddetr evaluate run --data others",
    "oddetr predict run nothing/*.jpg --out found",
    "oddetr predict run photos --out found --threshold 30",
    "oddetr predict run photos --out found --classes 3,seven",
    "oddetr predict run photos --out found --formats xml",
    "oddetr report photos",
    "oddetr report run/best",
    "oddetr export run --out model.onnx --height 8 --width 8",
    "oddetr export run --out photos",
    "oddetr compare nowhere.yaml",
    "oddetr convert photos/street.jpg --to there",
    "oddetr demo run --port 99999",
    "oddetr train --data scenes --non-finite ignore",
    "oddetr replay nowhere.pt",
    "oddetr replay photos/street.jpg",
)


@pytest.fixture
def place(scenes: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data sets, good and bad, a run, and some photos."""
    shutil.copytree(scenes, tmp_path / "scenes")
    shutil.copytree(trained, tmp_path / "run")
    for name in ("config.json", "best/checkpoint.json", "last/checkpoint.json"):
        file = tmp_path / "run" / name
        file.write_text(file.read_text().replace(str(scenes), str(tmp_path / "scenes")))
    for name in ("best", "last"):
        without_checksums(tmp_path / "run" / name)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "street.jpg")
    (tmp_path / "wrong").mkdir()
    for name, content in WRONG.items():
        (tmp_path / "wrong" / f"{name}.yaml").write_bytes(content)
    for name in ("broken", "unlabelled", "others"):
        shutil.copytree(scenes, tmp_path / name)
    for file in (tmp_path / "broken").rglob("*.json"):
        file.write_text(file.read_text()[:-20])
    for file in (tmp_path / "unlabelled").rglob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    for file in (tmp_path / "others").rglob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "zero"
        file.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The command, its exit code and its error, without this machine's paths."""
    try:
        code = main(command.split()[1:])
    except SystemExit as ended:
        code = ended.code
    lines = capsys.readouterr().err.replace(str(place), "HERE")
    lines = lines.partition("usage: oddetr VERB")[0]
    lines = re.sub(r"^usage: .*?\n(?=\S)", "", lines, flags=re.DOTALL | re.MULTILINE)
    return f"$ {command}\n{lines.strip()}\n[exit code {code}]\n"


def test_messages_of_wrong_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = "\n".join(told(command, place, capsys) for command in COMMANDS)

    assert "Traceback" not in found
    assert "[exit code 0]" not in found
    if os.environ.get("ODDETR_SNAPSHOT") == "write":
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text()
