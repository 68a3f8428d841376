"""The detectors trained on COCO: downloaded from a Hub, loaded from the cache without one, and refused with reasons."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from oddetr.models.transformers.pretrained_models import CATALOGUE, FineTuning
from tests.hub_server import hub_server
from tests.models.test_huggingface import MODELS

pytest.importorskip("transformers", minversion="5.23")

SERVED = {
    "dfine-n": "D-FINE",
    "rtdetr-r18": "RT-DETR",
    "rtdetrv2-r18": "RT-DETR v2",
    "deformable-detr-r50": "deformable refine",
    "deformable-detr-plain-r50": "deformable",
    "deformable-detr-two-stage-r50": "deformable two-stage",
}
"""A name in the catalogue, and the small random detector that is served for it."""
PROGRAM = """
import sys
from oddetr.models.transformers.pretrained_models import CATALOGUE
from oddetr.models.transformers.config import load_pretrained
for name in sys.argv[1:]:
    address = CATALOGUE[name].address if name in CATALOGUE else name
    try:
        print(name, sum(float(each.double().sum()) for each in load_pretrained(address)[0].state_dict().values()))
    except (OSError, ValueError) as error:
        print(name, error)
"""
TRAIN = (
    "import oddetr, sys; oddetr.train(data=sys.argv[1], out=sys.argv[2], epochs=1, batch_size=8, workers=0, "
    "image_size=64, trainer={'limit_train_batches': 1, 'limit_val_batches': 1})"
)


def lines_of(program: str, *arguments: object, **environment: str) -> list[str]:
    """What a Python process prints that has another Hub and another cache."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Small random detectors under the names, and at the commits, of the catalogue."""
    folder, found = tmp_path_factory.mktemp("hub"), {}
    for name, model in SERVED.items():
        torch.manual_seed(0)
        MODELS[model]().save_pretrained(folder / name)
        commit = CATALOGUE[name].commit
        assert commit
        found[CATALOGUE[name].repository] = commit, folder / name
    return found


def test_catalogue_is_loaded_from_the_hub_and_then_from_the_cache(
    repositories: dict[str, tuple[str, Path]], scenes: Path, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    wrong = [CATALOGUE["dfine-n"].repository + "@" + 40 * "0", "nobody/nothing"]
    # The first download of each file of weights breaks off half way.
    with hub_server(repositories, torn={"model.safetensors"}) as (address, asked):
        online = {"HF_ENDPOINT": address, "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}
        loaded = lines_of(PROGRAM, *SERVED, *wrong, **online)
        got = [each for each in asked if each.startswith("GET") and each.endswith("model.safetensors")]
        assert len(got) == len(SERVED) + 1
        trained = "\n".join(lines_of(TRAIN, scenes, tmp_path / "run", **online))
    assert "RevisionNotFound" in loaded[-2]
    assert "RepositoryNotFound" in loaded[-1]
    assert "model dfine-n: trained on COCO, no CUDA GPU is used" in " ".join(trained.split())
    assert "with the outputs of 0 of 10 classes" in " ".join(trained.split())
    offline = {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
    again = lines_of(PROGRAM, *SERVED, "dfine-m", **offline)
    assert again[:-1] == loaded[:-2]
    assert len({line.split()[1] for line in again[:-1]}) == len(SERVED)
    assert "dfine-m" in again[-1]
    for words in ("not in the cache", cache, f"hf download {CATALOGUE['dfine-m'].repository}"):
        assert words in again[-1]


def test_rows_name_repositories_commits_and_rates() -> None:
    for name, model in CATALOGUE.items():
        assert model.repository.count("/") == 1, name
        assert model.commit is None or (len(model.commit) == 40 and int(model.commit, 16)), name
        assert 0 < model.coco_ap < 1, name
        assert 0 < model.fine_tuning.backbone_factor <= 1, name


def test_rate_falls_with_the_square_root_of_the_images_and_never_rises() -> None:
    tuning = FineTuning(1e-4, 0.5, 32, "")
    assert tuning.rate_for(32) == tuning.rate_for(64) == 1e-4
    assert tuning.rate_for(8) == 5e-5
    assert tuning.rate_for(4) == 3.5e-5
