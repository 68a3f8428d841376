import time
from pathlib import Path

import pytest

from oddetr.prediction.inputs import find_files, unique_names


def test_find_files_when_given_folders_globs_and_files_then_lists_each_once(tmp_path: Path) -> None:
    for name in ("a/x.JPG", "a/b/y.png", "a/notes.txt", "a/clip.MP4", "z.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    found = find_files([tmp_path / "a", str(tmp_path / "*.png"), tmp_path / "z.png"])
    names = [file.relative_to(tmp_path).as_posix() for file in found]
    assert names == ["a/b/y.png", "a/clip.MP4", "a/x.JPG", "z.png"]
    for without, count in ((tmp_path / "a" / "b", 2), (tmp_path / "a", 3), (tmp_path, 3)):
        assert len(find_files([tmp_path / "a"], without)) == count
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_files([tmp_path / "nothing*.jpg"])


def test_unique_names_when_files_share_one_then_a_number_is_added() -> None:
    files = [Path(name) for name in ("a/x.png", "b/x.jpg", "x_2.png", "c/X.mp4")]
    assert list(unique_names(files).values()) == ["x", "x_2", "x_2_2", "X_3"]


@pytest.mark.parametrize("letter", ["x", "字"])
def test_unique_names_when_stems_are_long_then_files_can_be_written(letter: str, tmp_path: Path) -> None:
    stem = letter * (250 // len(letter.encode()))
    files = [Path(folder) / f"{stem}{extension}" for folder in "ab" for extension in (".c", ".d")]
    names = list(unique_names(files).values())
    assert [name.rstrip("_234") for name in names] == [stem[: 240 // len(letter.encode())]] * 4
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / f"{name}.png.part").touch()


def test_unique_names_when_20000_files_share_one_then_takes_no_quadratic_time() -> None:
    begun = time.process_time()
    names = unique_names(Path(f"{folder}/x.png") for folder in range(20_000))
    assert [*names.values()][-1] == "x_20000"
    assert time.process_time() - begun < 5


def test_find_files_when_a_folder_has_an_image_name_then_lists_its_files_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "album.jpg" / "x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    assert [file.name for file in find_files([tmp_path, "album.jpg"])] == ["x.png"]
