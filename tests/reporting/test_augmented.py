"""The page of augmented examples shows what a training will see."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

import oddetr
from oddetr.cli import main
from oddetr.data.augmentation import training_data
from oddetr.data.batches import EpochSampler, make_loader
from oddetr.data.reader import read_data
from oddetr.data.transforms import AugmentConfig
from oddetr.models.transformers.pretrained_models import PretrainedModel

STRONG = AugmentConfig(mosaic=0.5, mixup=0.5, zoom_out=0.5, iou_crop=0.8, rotate=True)


def pictures(page: Path) -> list[Image.Image]:
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in codes]


def test_the_page_shows_the_first_examples_of_a_training(scenes: Path, tmp_path: Path) -> None:
    """Eight images, so that the last four are of the second epoch."""
    file = tmp_path / "pages" / "strong.html"
    page = oddetr.augment(scenes, file, STRONG, images=12, image_size=96, epochs=5, seed=3)
    data = training_data(read_data(scenes).splits["train"], 96, (0.0,) * 3, (1.0,) * 3, STRONG, epochs=5, seed=3)
    loader, objects = make_loader(data, EpochSampler(8, seed=3), batch_size=4), []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        objects += [batch.truth.total for batch in loader]
    assert (page.file, page.examples, page.objects) == (file, 12, sum(objects[:3]))
    assert len(pictures(file)) == 12
    text = file.read_text()
    assert [text.count(f"px, epoch {epoch}<") for epoch in (1, 2, 3)] == [8, 4, 0]
    assert "ends after epoch 4 of 5" in text
    assert re.search(r"augment\.mosaic</th><td>0\.5<", text)
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_the_page_is_the_same_each_time_and_options_are_those_of_train(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--images", "2", "--image-size", "64", "--augment.mosaic", "1"]
    for name in ("one", "two"):
        assert main(["augment", str(scenes), "--out", str(tmp_path / f"{name}.html"), *words]) == 0
    assert "2 examples with" in capsys.readouterr().out
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_no_model_is_looked_for(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would ask the Hub for a detector trained on COCO."""
    monkeypatch.setattr(PretrainedModel, "unavailable", lambda _: pytest.fail("the Hub is asked"))
    monkeypatch.setattr("oddetr.models.transformers.config.find_config", lambda _: pytest.fail("a model is read"))
    assert oddetr.augment(scenes, tmp_path / "page.html", images=1).examples == 1


def test_the_page_of_mild_augmentation_of_the_built_in_scenes(tmp_path: Path) -> None:
    oddetr.augment("digits", tmp_path / "page.html", images=1)
    assert "There is no strong augmentation" in (tmp_path / "page.html").read_text()
