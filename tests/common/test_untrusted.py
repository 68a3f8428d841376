import argparse
import math
from pathlib import Path

import pytest
import torch

from oddetr.common.untrusted import read_json, read_normalisation, read_number, read_weights_only


@pytest.mark.parametrize("content", [b"{", b"[" * 10**6, b"\xff\xfe\xff", b""])
def test_read_json_when_the_file_is_damaged_or_deep_then_names_it(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        read_json(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_read_weights_only_reads_tensors_lists_and_numbers(zipped: bool, tmp_path: Path) -> None:
    """Views of one storage, tied weights, and a tensor of no values."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "tied": whole, "turned": whole.T, "row": whole[1], "none": torch.zeros(0, 4)}
    content = {"model": state, "args": argparse.Namespace(nheads=8), "names": ["a"], "step": 4}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = read_weights_only(tmp_path / "weights.pth")
    assert all(found["model"][name].equal(value) for name, value in state.items())
    assert (found["names"], found["step"]) == (["a"], 4)
    with pytest.raises(FileNotFoundError):
        read_weights_only(tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match=r"cannot be read as weights only.*Files that hold more than weights are"):
        read_weights_only(tmp_path / "weights.pth")


def test_numbers_are_finite_or_none() -> None:
    assert [read_number(value) for value in (1, 0.5, None, math.nan, -math.inf)] == [1.0, 0.5, None, None, None]
    for value in ("1", True, 10**400, [1]):
        with pytest.raises(ValueError, match="is no number"):
            read_number(value)
    assert read_normalisation({"mean": [0, 0, 0], "std": [1, 1, 0.5]}) == ((0.0, 0.0, 0.0), (1.0, 1.0, 0.5))
    for name, values in (("mean", ["x", 0, 0]), ("std", [0, 0, 0]), ("std", [1, 1])):
        with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
            read_normalisation({"mean": [0, 0, 0], "std": [1, 1, 1]} | {name: values})
