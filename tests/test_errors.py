"""The likeliest errors, as users read them: each says what was found, where, and what to do."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from oddetr.cli import main

WRONG = {
    "option": b"epoch: 3",
    "group": b"optimizer: {lr: 3}",
    "value": b"epochs: many",
    "part": b"detector: 3",
    "yaml": b"epochs: [3",
    "list": b"- epochs",
    "encoding": b"data: \xff",
    "arms": b"base: {epoch: 3}",
}
"""Configuration files."""
COMMANDS: dict[str, tuple[int, str]] = {
    "tarin --data scenes": (2, "There is no verb 'tarin'. Did you mean train?"),
    "train --data nowhere": (1, "nowhere does not exist -> Give the folder that holds the whole data set"),
    "train --data photos": (1, "photos has no known layout; it holds street.jpg understood layouts: COCO: "),
    "train --data labels_only": (1, "it has labels but no images: export the images too"),
    "train --data broken": (1, "annotations/instances_train.json: Unterminated string"),
    "train --data scenes --epoch 3": (2, "There is no option epoch. Did you mean epochs?"),
    "train scenes --epochs 3": (2, "unrecognized arguments: scenes. Did you mean --data scenes?"),
    "train --data scenes --epochs 0": (1, "epochs is 0; it must be a whole number of at least 1."),
    "train --data scenes --epochs many": (2, "epochs takes a whole number, not 'many'."),
    "train --data scenes --precision fp8": (2, "precision takes fp32 or bf16 or fp16, not 'fp8'."),
    "train --data scenes --distillation.enabled maybe": (2, "distillation.enabled takes true or false, not 'maybe'."),
    "train --data scenes --optimizer 3": (2, "optimizer takes names with values, not '3'."),
    "train --data scenes --loggers comet": (2, "loggers takes tensorboard or mlflow or wandb"),
    "train --data scenes --model yolo": (1, "There is no model 'yolo'; there are dfine-n, dfine-s, "),
    "train --data scenes --detector.num_querys 10": (1, "has no field 'num_querys'; it has variant, backbone, "),
    "train --data scenes --init nowhere": (1, "There is no nowhere. A checkpoint is a run's folder, or "),
    "train --data scenes --trainer.gpus 3": (1, "There is no option trainer.gpus."),
    "train --config wrong/option.yaml": (2, "wrong/option.yaml: There is no option epoch. Did you mean epochs?"),
    "train --config wrong/group.yaml": (2, "wrong/group.yaml: There is no option optimizer.lr. optimizer has "),
    "train --config wrong/value.yaml": (2, "wrong/value.yaml: epochs takes a whole number, not 'many'."),
    "train --config wrong/part.yaml": (2, "wrong/part.yaml: detector takes names with values, not '3'."),
    "train --config wrong/yaml.yaml": (2, "wrong/yaml.yaml: this is no YAML: while parsing a flow sequence at line 1"),
    "train --config wrong/list.yaml": (2, "wrong/list.yaml: there are no options in it."),
    "train --config wrong/encoding.yaml": (1, "wrong/encoding.yaml is no UTF-8 text"),
    "compare wrong/arms.yaml": (1, "wrong/arms.yaml: base: There is no option epoch. Did you mean epochs?"),
    "compare nowhere.yaml": (1, "There is no file nowhere.yaml."),
    "train --data scenes --out run": (1, "run holds a run already. Go on with it by --resume, or give another folder"),
    "train --out run --resume --epochs 7": (1, "epochs was 1, now it is 7"),
    "train --data scenes --resume": (1, "--resume continues a run: name its folder with --out."),
    "evaluate photos": (1, "There is no checkpoint in photos"),
    "evaluate run --split holdout": (1, "The data set has no split 'holdout'; it has train, val, test."),
    "evaluate run --data others": (1, "The data set has classes that the detector does not know: zero."),
    "evaluate run --weights ema": (2, "weights takes teacher or student, not 'ema'."),
    "predict run nothing/*.jpg --out found": (1, "No image at nothing/*.jpg"),
    "predict run photos --out found --threshold 30": (1, "The threshold is 30.0"),
    "predict run photos --out found --classes 3,seven": (1, "does not know the class 'seven'"),
    "predict": (2, "arguments are required: checkpoint, paths, out"),
    "train --data scenes --augment.mosaic 2": (1, "augment.mosaic is 2.0; it is a probability, in [0, 1]."),
    "augment nowhere --out page.html": (1, "nowhere does not exist -> Give the folder that holds the whole data set"),
    "augment scenes --out photos": (1, "photos is a folder or a device. Give the file to write"),
    "augment scenes --out page.html --images 0": (1, "images is 0; it must be at least 1."),
    "report photos": (1, "There is no run in photos"),
    "export run --out photos": (1, "photos is a folder."),
    "convert photos/street.jpg --to there": (1, "cannot be read as weights only"),
    "demo run --port 99999": (1, "The port is 99999; it must lie in 1-65535."),
    "replay nowhere.pt": (1, "There is no file nowhere.pt."),
}
"""Commands, with the exit code and what the error says, in one line."""


@pytest.fixture(scope="module")
def place(scenes: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets, good and bad, a run, and a photo."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "scenes").symlink_to(scenes)
    (folder / "run").symlink_to(trained)
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "photos" / "street.jpg")
    (folder / "labels_only" / "labels").mkdir(parents=True)
    (folder / "labels_only" / "labels" / "street.txt").write_text("0 0.5 0.5 0.2 0.2")
    (folder / "wrong").mkdir()
    for name, content in WRONG.items():
        (folder / "wrong" / f"{name}.yaml").write_bytes(content)
    for name in ("broken", "others"):
        shutil.copytree(scenes, folder / name)
    for file in (folder / "broken").rglob("*.json"):
        file.write_text(file.read_text()[:-20])
    for file in (folder / "others").rglob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "zero"
        file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_says_what_is_wrong_and_writes_nothing(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = COMMANDS[command]
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    try:
        found = main(command.split())
    except SystemExit as ended:
        found = ended.code
    error = " ".join(capsys.readouterr().err.split())
    assert found == code
    assert message in error
    assert "Traceback" not in error
    assert sorted(place.iterdir()) == before
