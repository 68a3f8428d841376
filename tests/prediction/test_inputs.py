from pathlib import Path

import pytest

from oddetr.prediction.inputs import find_files, unique_names


def test_find_files_when_given_folders_globs_and_files_then_lists_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.JPG", "a/b/y.png", "a/notes.txt", "a/clip.MP4", "a/album.jpg/v.png", "z.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    found = find_files([tmp_path / "a", str(tmp_path / "*.png"), tmp_path / "z.png"])
    names = [file.relative_to(tmp_path).as_posix() for file in found]
    assert names == ["a/album.jpg/v.png", "a/b/y.png", "a/clip.MP4", "a/x.JPG", "z.png"]
    for without, count in ((tmp_path / "a" / "b", 3), (tmp_path / "a", 4), (tmp_path, 4)):
        assert len(find_files([tmp_path / "a"], without)) == count
    monkeypatch.chdir(tmp_path / "a")
    assert [file.name for file in find_files(["album.jpg", "../a/album.jpg"])] == ["v.png"]
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_files([tmp_path / "nothing*.jpg"])


@pytest.mark.parametrize("letter", ["x", "字"])
def test_unique_names_when_files_share_one_then_are_numbered_and_short_enough_to_write(
    letter: str, tmp_path: Path
) -> None:
    files = [Path(name) for name in ("a/x.png", "b/x.jpg", "x_2.png", "c/X.mp4")]
    assert list(unique_names(files).values()) == ["x", "x_2", "x_2_2", "X_3"]
    stem = letter * (250 // len(letter.encode()))
    names = list(unique_names(Path(folder) / f"{stem}.png" for folder in "abc").values())
    assert [name.rstrip("_23") for name in names] == [stem[: 240 // len(letter.encode())]] * 3
    for name in names:
        (tmp_path / f"{name}.png.part").touch(exist_ok=False)


def test_images_of_a_folder_are_what_their_content_says(tmp_path: Path) -> None:
    for name, content in (
        ("photo.jfif", b"\xff\xd8\xff\xe0"),
        ("picture", b"\x89PNG\r\n\x1a\n"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("notes.dat", b"BM is no bitmap"),
        ("empty.bin", b""),
        ("labels.txt", b"\xff\xd8\xff\xe0"),
    ):
        (tmp_path / name).write_bytes(content)

    assert [file.name for file in find_files([tmp_path])] == ["phone.heic", "photo.jfif", "picture"]


@pytest.mark.parametrize("address", ["rtsp://camera:554/1", "https://example.org/a.jpg"])
def test_addresses_are_answered_with_the_way_to_a_file(address: str) -> None:
    with pytest.raises(FileNotFoundError, match="Save it as a file first"):
        find_files([address])
