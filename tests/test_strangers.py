"""Files from strangers: nothing in them is run, and no verb writes outside its folder."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import oddetr
from oddetr.cli import main
from oddetr.evaluation.scores_json import read_scores
from oddetr.training.config import TrainConfig
from oddetr.training.records.log import read_events
from tests.conftest import tiny_arguments
from tests.helpers import without_checksums
from tests.strange import STRANGE_MODULE, Bomb, armed, changed, hostile_checkpoint, refused


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    return armed(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return hostile_checkpoint(tmp_path / "run" / "best")


def by_torch(file: Path, bomb: Bomb) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}, "global_step": 3, "more": bomb}, file)


def by_torch_before_zip(file: Path, bomb: Bomb) -> None:
    torch.save({"state_dict": {}, "more": bomb}, file, _use_new_zipfile_serialization=False)


def by_pickle(file: Path, bomb: Bomb) -> None:
    file.write_bytes(pickle.dumps(bomb))


def by_yaml(file: Path, bomb: Bomb) -> None:
    file.write_text(
        f"data: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{bomb.file}']]\n"
    )


PLANTERS = (by_torch, by_torch_before_zip, by_pickle)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("convert {strange} --to {new}", "Save its state dict alone"),
        ("train --backbone-weights {strange} --epochs 1 --out {new}", "Ways to get them"),
        ("replay {strange}", "Give a replay_step_N.pt"),
    ],
)
def test_verb_when_a_file_is_a_pickle_then_refuses_it(
    words: str, advice: str, exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, plant in enumerate(PLANTERS if words.startswith("replay") else PLANTERS[:1]):
        plant(tmp_path / "strange.pt", Bomb(exploded))
        places = {"strange": tmp_path / "strange.pt", "new": tmp_path / f"new{number}"}
        message = refused([word.format(**places) for word in words.split()], capsys)
        assert "cannot be read as weights only" in message
        assert advice in message
        assert not exploded.exists()


def test_resume_when_the_state_is_a_pickle_then_refuses_it(
    exploded: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = checkpoint.parent
    digits = {"names": [*"0123456789"], "ids": [*range(10)]}
    changed(checkpoint, lambda content: content.update(classes=digits))
    checkpoint.rename(run / "last")
    (run / "config.json").write_text(json.dumps(TrainConfig(epochs=2).to_json()))
    (run / "last" / "student.safetensors").write_bytes((run / "last" / "model.safetensors").read_bytes())
    by_torch(run / "last" / "resume.ckpt", Bomb(exploded))
    without_checksums(run / "last")
    assert "resume.ckpt cannot be read as weights only" in refused(["train", "--out", str(run), "--resume"], capsys)
    assert not exploded.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
def test_checkpoint_when_a_file_is_a_pickle_then_is_refused(
    name: str, exploded: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(exploded)))
    words = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert "cannot be read" in refused(words, capsys)
    assert not exploded.exists()


def test_images_and_annotations_when_pickles_then_are_unreadable(
    exploded: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        (data / split / "a.png").write_bytes(pickle.dumps(Bomb(exploded)))
        (data / split / "_annotations.coco.json").write_bytes(pickle.dumps(Bomb(exploded)))
    assert main(["check", str(data)]) == 1
    assert main(["predict", str(checkpoint), str(data / "val"), "--out", str(tmp_path / "out")]) == 1
    assert "the file is empty, or no image" in " ".join(capsys.readouterr().out.split())
    assert not exploded.exists()


def test_configuration_when_it_has_python_tags_then_is_refused(
    exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "strange.yaml"
    by_yaml(file, Bomb(exploded))
    for words in (["train", "--config", str(file)], ["compare", str(file)]):
        assert "could not determine a constructor for the tag" in refused(words, capsys)
    assert not exploded.exists()


LEVELS = ["&a0 [x, x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
"""A few hundred bytes of YAML that mean 9^29 lists."""


@pytest.mark.parametrize("field", ["trainer", "detector"])
def test_configuration_when_it_has_aliases_then_is_refused_unexpanded(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = f"{field}: {{{', '.join(f'a{n}: {level}' for n, level in enumerate(LEVELS))}}}"
    file = tmp_path / "strange.yaml"
    told: dict[str, str] = {}
    for text in (bomb, f"base: {{{bomb}}}"):
        file.write_text(f"{text}\n")
        told |= {verb: refused([*verb.split(), str(file)], capsys) for verb in ("train --config", "compare")}
        assert "*a0 stands for another part of it, which is not read; write that out here" in told["compare"]
        assert "*a0 stands for another part" in told["train --config"]
    file.write_text(f"base: '{{{bomb}}}'\n")
    assert "strange.yaml: base takes names with values, not " in refused(["compare", str(file)], capsys)


@pytest.mark.parametrize("field", ["trainer", "detector"])
def test_configuration_when_it_names_a_class_then_imports_nothing(
    field: str, exploded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsonargparse by itself imports the class that `class_path` names, and makes one."""
    (tmp_path / "strange_module.py").write_text(STRANGE_MODULE.format(str(exploded)))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "strange.yaml"
    values = f"{field}: {{profiler: {{class_path: strange_module.Bomb}}}}\nepochs: 1\nout: {tmp_path / 'new'}\n"
    file.write_text(values)
    refused(["train", "--config", str(file)], capsys)
    file.write_text("base:\n  " + values.partition("out:")[0].strip().replace("\n", "\n  ") + "\n")
    with pytest.raises(ValueError, match="class_path"):
        oddetr.compare(file)
    assert not exploded.exists()


def test_events_when_lines_have_wrong_values_then_leaves_them_out(tmp_path: Path) -> None:
    sound = {"kind": "train", "step": 1, "loss": 0.5}
    epoch = {"kind": "epoch", "step": 1, "epoch": 1}
    wrong = [sound | {"step": value} for value in ("x", [1], True, 10**30, -1)]
    wrong += [epoch | {"epoch": value} for value in ("x", None)]
    lines = [json.dumps(event) for event in (sound, *wrong, epoch)]
    odd = ["[" * 10**5, "{}", '"train"', '{"kind": ["x"], "step": 1}', lines[0][:-5]]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*odd, *lines]))
    assert read_events(tmp_path) == [sound, epoch]


@pytest.mark.parametrize("value", ["x", [1], {"y": 1}, True, 10**400])
def test_scores_of_another_kind_are_left_out_one_by_one(value: object) -> None:
    scores = {"AP": 0.5, "per_class": {"cat": None}, "instability": [0.5], "AP50": 1.0}
    assert read_scores(scores | {"AP": value}) == {key: kept for key, kept in scores.items() if key != "AP"}
    assert read_scores(scores | {"per_class": {"cat": None, "dog": value}, "instability": [0.5]}) == scores


def tree(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_predict_when_names_are_hostile_then_writes_only_into_its_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "deep" / "out"
    photos.mkdir()
    out.mkdir(parents=True)
    for name in ("...png", "..png", "..\\..\\up.png", "%2e%2e%2fup.png", "-o.png", "a\nb.png", "CON.png"):
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(photos / name, format="PNG")
    monkeypatch.chdir(tmp_path / "deep")
    before = tree(tmp_path)
    report = oddetr.predict(checkpoint, photos, out, threshold=0.0, formats="pictures,coco,csv")
    assert report.images + len(report.unreadable) == 7
    after = tree(tmp_path)
    assert {file: content for file, content in after.items() if out not in file.parents} == before
    assert all(file.parent == out for file in after if out in file.parents)


def test_unique_names_when_only_dots_then_name_no_folder() -> None:
    from oddetr.prediction.inputs import unique_names

    names = unique_names([Path("...mp4"), Path("..mp4"), Path("a/...avi")])
    assert not {"", ".", ".."} & set(names.values())
    assert len(set(names.values())) == 3


def test_save_pretrained_when_names_are_hostile_then_writes_only_into_its_folder(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    oddetr.Predictor.load(checkpoint).save_pretrained(tmp_path / "shared")
    new = {file for file in tree(tmp_path) if file not in before}
    assert {file.parent for file in new} == {tmp_path / "shared"}


def test_resume_when_the_record_names_another_folder_then_writes_into_its_own(scenes: Path, tmp_path: Path) -> None:
    run = oddetr.train(**tiny_arguments(scenes, tmp_path / "run") | {"epochs": 1})
    record = {"out": str(tmp_path / "elsewhere"), "epochs": 2}
    changed(run / "last", lambda content: content["configuration"].update(record))
    without_checksums(run / "last")
    oddetr.train(data=str(scenes), out=run, resume=True)
    assert not (tmp_path / "elsewhere").exists()
    assert json.loads((run / "last" / "checkpoint.json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("evaluate {run}", "run/best/checkpoint.json"),
        ("predict {run} {image} --out {new}", "run/best/model.safetensors"),
        ("report {run}", "run/metrics.jsonl"),
        ("convert {theirs} --to {new}", "theirs/x.safetensors"),
        ("replay {strange}", "strange"),
    ],
)
def test_verb_when_a_file_is_a_pipe_or_a_device_then_does_not_open_it(
    words: str, name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening a pipe waits for ever for a writer; a device may have no end."""
    run, theirs, image = tmp_path / "run", tmp_path / "theirs", tmp_path / "a.png"
    (run / "config.json").write_text(json.dumps(TrainConfig(epochs=2).to_json()))
    without_checksums(checkpoint)
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"model_type": "deformable_detr"}))
    Image.new("RGB", (64, 64)).save(image)
    places = {"run": run, "theirs": theirs, "image": image, "new": tmp_path / "new", "strange": tmp_path / "strange"}
    for put in (os.mkfifo, lambda file: file.symlink_to("/dev/null")):
        (tmp_path / name).unlink(missing_ok=True)
        put(tmp_path / name)
        message = refused([word.format(**places) for word in words.split()], capsys)
        assert re.search(r"it is a (pipe|device), not a file|is missing", message), message
