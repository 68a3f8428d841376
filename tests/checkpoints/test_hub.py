"""Failures of the Hub, and uploads. There is no network: the Hub's client is replaced."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from oddetr import Predictor, cli
from oddetr.checkpoints.hub import HubError, fetch
from tests.checkpoints.test_sharing import SAVED, names

ANSWER = httpx.Response(404, request=httpx.Request("GET", "https://hub"))


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("nothing"),
        OfflineModeIsEnabled("offline"),
        RevisionNotFoundError("no", response=ANSWER),
        GatedRepoError("no", response=ANSWER),
    ],
    ids=lambda error: type(error).__name__,
)
def test_from_pretrained_when_the_hub_fails_then_says_what_to_do(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(HubError) as caught:
        Predictor.from_pretrained("user/cells", revision="v2", cache_dir=tmp_path)
    facts = "no folder user/cells", "'v2'", "huggingface.co", str(tmp_path), type(error).__name__, "hf auth login"
    assert all(fact in str(caught.value) for fact in facts)


@pytest.mark.parametrize("name", ["user/cells", "/no/such/folder", "hf:"])
def test_from_pretrained_when_nothing_is_found_then_says_so(name: str, tmp_path: Path) -> None:
    """huggingface_hub itself, without a network."""
    with pytest.raises(HubError, match=r"There is no folder .* A name is user/name"):
        Predictor.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)


class FakeApi:
    """Takes what is uploaded."""

    calls: list[tuple[str, Any]]

    def __init__(self, token: Any = None) -> None:
        self.calls.append(("token", token))

    def create_repo(self, repo_id: str, **more: Any) -> Any:
        self.calls.append(("create", {"repo_id": repo_id, **more}))
        return type("Made", (), {"repo_id": repo_id})

    def upload_folder(self, folder_path: Path, allow_patterns: list[str], **more: Any) -> str:
        files = set(huggingface_hub.utils.filter_repo_objects(names(folder_path), allow_patterns=allow_patterns))
        card = (folder_path / "README.md").read_text()
        self.calls.append(("upload", {"files": files, "card": card, **more}))
        assert not {*more["delete_patterns"]} & files
        return f"https://huggingface.co/{more['repo_id']}/commit/1"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    FakeApi.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi.calls


def test_push_to_hub_uploads_the_checkpoint_and_its_card(trained: Path, api: list[tuple[str, Any]]) -> None:
    predictor = Predictor.load(trained / "last")
    address = predictor.push_to_hub("user/cells", private=True, token="hf_x", branch="new", license="mit")
    assert address == "https://huggingface.co/user/cells/commit/1"
    calls = dict(api)
    assert calls["token"] == "hf_x"
    assert calls["create"] == {"repo_id": "user/cells", "private": True, "exist_ok": True}
    assert calls["upload"]["files"] == SAVED
    assert {*calls["upload"]["delete_patterns"]} == {"student.safetensors", "config.json"}
    assert calls["upload"]["revision"] == "new"
    assert 'Predictor.from_pretrained("user/cells")' in calls["upload"]["card"]
    assert "license: mit" in calls["upload"]["card"]


def test_push_prints_the_address(trained: Path, api: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", str(trained), "--to", "user/cells", "--student", "true"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/user/cells/commit/1\n"
    assert dict(api)["upload"]["files"] == SAVED | {"student.safetensors"}


def test_push_when_the_hub_refuses_then_says_what_to_do(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", Mock(side_effect=ConnectionError("no route")))
    assert cli.main(["push", str(trained), "--to", "user/cells"]) == 1
    message = capsys.readouterr().err
    assert all(word in message for word in ("user/cells", "no route", "hf auth login"))


def test_fetch_when_the_revision_leaves_the_cache_then_is_refused(tmp_path: Path) -> None:
    for revision in ("../../up", "refs/../../../up", "..\\up"):
        with pytest.raises(HubError, match="is no revision"):
            fetch("user/cells", ["checkpoint.json"], revision=revision, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())
