"""Videos: written and read back frame by frame; and those that are broken, or cannot be read here."""

import csv
import json
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oddetr
from oddetr import cli
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.predictor import Predictor
from oddetr.prediction.video import VideoError, VideoReader, VideoWriter, check_drawable
from tests.prediction.blobs import CLASSES, blob_predictor

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (the video extra)")

RATE = 12.5
PLACES = [(20, 12), (60, 30), (90, 60), (150, 80), (30, 100)]


@pytest.fixture(autouse=True)
def blobs(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    predictor = blob_predictor()
    monkeypatch.setattr(Predictor, "load", lambda *_: predictor)
    return predictor


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A white bar that jumps, one place a frame; nothing in the last frame. Lossless."""
    file = tmp_path / "clips" / "clip.avi"
    file.parent.mkdir()
    return write_video(file, "FFV1", frames())


def write_video(file: Path, codec: str, images: list[np.ndarray]) -> Path:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), RATE, (width, height))
    for image in images:
        writer.write(image)
    writer.release()
    return file


def frames() -> list[np.ndarray]:
    images = [np.zeros((128, 192, 3), np.uint8) for _ in range(len(PLACES) + 1)]
    for image, (left, top) in zip(images, PLACES, strict=False):
        image[top : top + 20, left : left + 10] = 255
    return images


def test_predict_when_given_a_video_then_writes_tables_and_a_video_like_it(
    clip: Path, tmp_path: Path, blobs: Predictor
) -> None:
    out = tmp_path / "out"
    report = oddetr.predict("any", clip, out, batch_size=4, formats="pictures,coco,csv")
    assert (report.images, report.frames, report.objects) == (0, 6, 5)
    assert report.pictures == [out / "clip.mp4"]
    assert report.unreadable == {}
    with (out / "detections.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["frame"]), float(row["seconds"])) for row in rows] == [(n, n / RATE) for n in range(5)]
    assert [(float(row["left"]), float(row["top"])) for row in rows] == PLACES
    content = json.loads((out / "detections.json").read_text())
    assert [(image["frame"], image["seconds"]) for image in content["images"]] == [(n, n / RATE) for n in range(6)]
    assert [found["image_id"] for found in content["annotations"]] == [1, 2, 3, 4, 5]
    video = VideoReader(out / "clip.mp4")
    assert video.rate == pytest.approx(RATE)
    read = list(video)
    assert len(read) == 6
    for image, drawn in zip(frames(), read, strict=True):
        assert drawn.shape == image.shape
        expected = np.asarray(draw_detections(image, blobs.detect([image])[0], CLASSES, enlarge=False))
        assert np.abs(drawn.astype(int) - expected).mean() < 5  # MPEG-4 loses a little; another frame differs by 15


def test_predict_when_videos_are_broken_or_empty_then_processes_the_rest(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clip.parent / "broken.mp4").write_bytes(b"no video" * 50)
    (clip.parent / "none.mov").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 100, (64, 64, 3), dtype=np.uint8)
    cut = write_video(clip.parent / "cut.avi", "MJPG", [noise] * 20)
    cut.write_bytes(cut.read_bytes()[:-30000])
    Image.fromarray(frames()[0]).save(clip.parent / "image.png")
    assert cli.main(["predict", "any", str(clip.parent), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for name in ("broken.mp4", "none.mov"):
        assert f"Cannot read the video {clip.parent / name}: " in told
    assert f"skipped: The video {cut} breaks off after" in told
    assert "objects in 1 images and " in told
    assert ", 3 files skipped: pictures, coco in" in told
    assert (tmp_path / "out" / "clip.mp4").exists()
    assert cli.main(["predict", "any", str(clip.parent / "broken.mp4"), "--out", str(tmp_path / "out")]) == 1


def test_predict_when_a_video_has_a_side_too_long_for_mpeg_4_then_skips_it(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    long = write_video(folder / "a.avi", "MJPG", [np.zeros((8192, 64, 3), np.uint8)])
    Image.fromarray(frames()[0]).save(folder / "b.png")
    report = oddetr.predict("any", folder, out)
    assert f"Cannot draw on the video {long}: its frames have 64 x 8192 pixels" in report.unreadable[long]
    assert [file.name for file in out.glob("*.[pm]*")] == ["b.png"]
    report = oddetr.predict("any", folder, out, formats="coco")
    assert (report.images, report.frames, report.unreadable) == (1, 1, {})


@pytest.mark.parametrize(("side", "drawable"), [(1, False), (2, True), (8191, True), (8192, False)])
def test_check_drawable_when_given_sides_then_agrees_with_the_writer(side: int, drawable: bool, tmp_path: Path) -> None:
    with nullcontext() if drawable else pytest.raises(OSError, match="Cannot write the video"):
        VideoWriter(tmp_path / "a.mp4", 10.0, (side, 64)).close()
    with nullcontext() if drawable else pytest.raises(VideoError, match=r"MPEG-4 holds sides of 2 to 8191"):
        check_drawable(tmp_path / "a.avi", 64, side)


def test_predict_when_interrupted_in_a_video_then_its_frames_so_far_can_be_played(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blobs: Predictor
) -> None:
    detect, calls = type(blobs).detect, []

    def twice(self: Predictor, images: list[np.ndarray], *rest: object) -> object:
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(self, images, *rest)

    monkeypatch.setattr(type(blobs), "detect", twice)
    with pytest.raises(KeyboardInterrupt):
        oddetr.predict("any", clip, tmp_path / "out", batch_size=2)
    assert len(list(VideoReader(tmp_path / "out" / "clip.mp4"))) == 4
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 4


def test_predict_when_opencv_is_missing_then_skips_the_video_and_names_the_package(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    Image.fromarray(frames()[0]).save(clip.parent / "image.png")
    report = oddetr.predict("any", clip.parent, tmp_path / "out")
    assert report.images == 1
    assert "pip install opencv-python-headless" in report.unreadable[clip]


PLAYLISTS = {
    "concat.mp4": "ffconcat version 1.0\nfile clip.avi\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
    "sdp.mov": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "reference.mov": "[Reference]\nRef1={address}/a.mov\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_video_when_it_is_a_list_of_other_files_then_none_of_them_is_opened(name: str, clip: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.1)
        file = clip.with_name(name)
        file.write_text(PLAYLISTS[name].format(address=f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(VideoError, match="it is empty, broken or no video"):
            VideoReader(file)
        with pytest.raises(TimeoutError):
            server.accept()


def test_video_when_its_name_is_a_pattern_of_images_then_they_are_not_opened(clip: Path) -> None:
    for index in range(3):
        Image.new("RGB", (64, 48)).save(clip.with_name(f"seq_{index:03}.png"))
    file = clip.with_name("seq_000.mp4")
    file.write_bytes(clip.with_name("seq_000.png").read_bytes())
    with pytest.raises(VideoError, match="no video"):
        VideoReader(file)
