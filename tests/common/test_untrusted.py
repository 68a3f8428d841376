import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.common.untrusted import MOST_JSON, read_json, read_weights_only
from tests.strange import refused


def test_read_json_when_the_file_is_too_large_then_does_not_read_it(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    with pytest.raises(ValueError, match="at most 7 are read"):
        read_json(file, 7)
    with file.open("r+b") as stream:
        stream.truncate(MOST_JSON + 1)
    with pytest.raises(ValueError, match=f"at most {MOST_JSON:,} are read"):
        read_json(file)


def test_read_weights_only_reads_tensors_lists_and_numbers(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(3), "names": ["a"], "step": 4}, tmp_path / "weights.pth")
    content = read_weights_only(tmp_path / "weights.pth")
    assert content["weight"].tolist() == [0, 1, 2]
    assert (content["names"], content["step"]) == (["a"], 4)
    with pytest.raises(FileNotFoundError):
        read_weights_only(tmp_path / "nothing.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_read_weights_only_when_tensors_share_storage_then_reads_them(zipped: bool, tmp_path: Path) -> None:
    """Views of one storage, tied weights, a tensor of no values and one of a single axis spread out."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "tied": whole, "turned": whole.T, "row": whole[1], "none": torch.zeros(0, 4)}
    state["spread"] = whole[None].expand(1, -1, -1)
    content = {"model": state, "args": argparse.Namespace(nheads=8, more=whole[2])}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = read_weights_only(tmp_path / "weights.pth")
    assert all(found["model"][name].equal(value) for name, value in state.items())


def deflated(file: Path) -> None:
    torch.save({"weight": torch.zeros(2**16)}, file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def overlapping(file: Path) -> None:
    """Its list of parts names the largest many times."""
    torch.save({"weight": torch.zeros(2**16)}, file)
    with zipfile.ZipFile(file, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        archive.filelist += [largest] * 3
        archive.comment = b"changed"


def spread(file: Path) -> None:
    torch.save({"weight": [{"inner": torch.zeros(1).expand(10**6, 10**6)}]}, file)


def spread_before_zip(file: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, file, _use_new_zipfile_serialization=False)


def spread_in_arguments(file: Path) -> None:
    torch.save({"model": {}, "args": argparse.Namespace(more=torch.zeros(1).expand(9))}, file)


def without_values(file: Path) -> None:
    torch.save({"weight": torch.zeros(10**6, 10**6, device="meta")}, file)


INFLATED = {
    deflated: "it declares",
    overlapping: "it declares",
    spread: "a tensor of 1000000 x 1000000 has only 4 bytes of values",
    spread_before_zip: "a tensor of 1000000 x 1000000 has only 4 bytes of values",
    spread_in_arguments: "a tensor of 9 has only 4 bytes of values",
    without_values: "holds no values",
}


@pytest.mark.parametrize("write", INFLATED)
def test_read_weights_only_when_the_content_is_larger_than_the_file_then_refuses(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pth"
    write(file)
    assert file.stat().st_size < 2**20
    with torch.serialization.safe_globals([argparse.Namespace]), pytest.raises(ValueError, match=INFLATED[write]):
        read_weights_only(file)
    assert INFLATED[write] in refused(["convert", str(file), "--to", str(tmp_path / "ours")], capsys)
    refused(["replay", str(file)], capsys)


def test_read_weights_only_when_lists_repeat_then_visits_each_once(tmp_path: Path) -> None:
    content: list[Any] = [torch.zeros(2)]
    for _ in range(64):
        content = [content, content]
    content.append(content)
    torch.save(content, tmp_path / "weights.pth")
    assert len(read_weights_only(tmp_path / "weights.pth")) == 3
