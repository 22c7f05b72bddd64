"""What a file is, for people who ask."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from sensorium.errors import FileMissing, MissingDependency
from sensorium.media import limits
from sensorium.media import probe as probe_file
from sensorium.media.limits import Limits
from sensorium.media.probe import probe
from sensorium.media.source import Source
from tests.pictures import encoded, jpeg, png

av = pytest.importorskip("av", reason="needs the extra `video`")


async def test_a_picture_is_described() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    found = await probe(Source.of(encoded(Pillow.new("L", (30, 20)), "JPEG", exif=exif)))
    assert (found.kind, found.format, found.accepted, found.error) == ("picture", "jpeg", True, None)
    assert (found.width, found.height, found.stored_width, found.orientation, found.mode) == (20, 30, 30, 6, "L")
    assert found.sha256 == await Source.of(encoded(Pillow.new("L", (30, 20)), "JPEG", exif=exif)).digest()
    assert json.loads(json.dumps(found.as_dict()))["mime"] == "image/jpeg"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
async def test_frames_are_counted(kind: str) -> None:
    frames = [Pillow.new("RGB", (20, 20), (40 * number, 0, 0)) for number in range(4)]
    found = await probe(Source.of(encoded(frames[0], kind, save_all=True, append_images=frames[1:])))
    assert (found.frames, found.accepted) == (4, True)


async def test_alpha_is_told() -> None:
    assert (await probe(Source.of(encoded(Pillow.new("RGBA", (4, 4)), "PNG")))).alpha
    assert not (await probe(Source.of(png()))).alpha


async def test_a_picture_that_would_be_refused_says_why() -> None:
    found = await probe(Source.of(jpeg()[:-300]))
    assert (found.kind, found.accepted, found.error_code, found.width) == ("picture", False, "corrupt_media", 64)
    with limits.use(Limits(max_pixels=100)):
        found = await probe(Source.of(png()))
    assert (found.error_code, found.width) == ("input_too_large", 64)


async def test_what_is_no_picture_is_named() -> None:
    for data, kind, code in (
        (b"", "unknown", "unidentified_media"),
        (b"\0\1\2\3", "unknown", "unidentified_media"),
        (b"just a few words", "text", "unsupported_media"),
        (b"internationalization", "text", "unsupported_media"),
        (b"%PDF-1.7", "document", "unsupported_media"),
        (b"<svg/>", "picture", "unsupported_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd", "playlist", "unsupported_media"),
        (b"#EXTM3U\nfile:///etc/passwd", "playlist", "unsupported_media"),
    ):
        found = await probe(Source.of(data))
        assert (found.kind, found.error_code, found.accepted) == (kind, code, False)


@pytest.mark.parametrize("wrap", [base64.b64encode, base64.encodebytes, base64.urlsafe_b64encode])
async def test_base64_text_is_looked_into(wrap: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(wrap(jpeg()))
    for source in (Source.of(path), Source.of(b"data:image/png;base64," + wrap(jpeg()))):
        found = await probe(source)
        assert found.kind == "base64 text"
        assert found.inside is not None
        assert (found.inside.format, found.inside.width, found.inside.accepted) == ("jpeg", 64, True)
        assert "JPEG" in (found.error or "")


async def test_base64_is_looked_into_once_only() -> None:
    found = await probe(Source.of(base64.b64encode(base64.b64encode(jpeg()))))
    assert found.inside is not None
    assert (found.inside.kind, found.inside.inside) == ("text", None)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds of video with sound."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height = 64, 48
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(20):
            container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        frame = av.AudioFrame(format="fltp", layout="mono", samples=32000)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


async def test_a_video_is_described_though_it_is_larger_than_a_picture_may_be(recording: Path) -> None:
    with limits.use(Limits(max_bytes=100)):
        found = await probe(Source.of(recording))
    assert (found.kind, found.width, found.height, found.fps, found.video_codec) == ("video", 64, 48, 10, "mpeg4")
    assert (found.audio_codec, found.sample_rate, found.channels) == ("aac", 16000, 1)
    assert found.duration_seconds == pytest.approx(2, abs=0.2)


async def test_a_video_that_is_cut_short_says_so(recording: Path) -> None:
    data = recording.read_bytes()  # noqa: ASYNC240
    found = await probe(Source.of(data[: len(data) // 2]))
    assert (found.kind, found.error_code) == ("video", "corrupt_media")


async def test_without_pyav_the_command_that_brings_it_is_named(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str, *, for_what: str) -> None:
        raise MissingDependency(f"Cannot {for_what}", fix="Run `pip install 'sensorium[video]'`.")

    monkeypatch.setattr(probe_file, "need", absent)
    found = await probe(Source.of(recording))
    assert (found.kind, found.error_code) == ("video", "missing_dependency")
    assert "sensorium[video]" in (found.error or "")


async def test_a_sound_that_lies_about_its_size_takes_no_memory() -> None:
    wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    found = await probe(Source.of(wav + b"data" + struct.pack("<I", 0xFFFF0000) + bytes(16000)))
    assert (found.kind, found.sample_rate, found.error_code) == ("sound", 8000, "corrupt_media")
    assert (found.duration_seconds or 0) < 10


async def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        await probe(Source.of(tmp_path / "none"))
    with pytest.raises(FileMissing):
        await probe(Source.of(tmp_path))


async def test_the_hostile_media_of_the_collection_are_described(shared_data: Path) -> None:
    folder = shared_data / "bad" / "media"
    expected = {
        "concat_local_file.ffconcat": ("playlist", "unsupported_media"),
        "jfk_truncated.flac": ("sound", "unsupported_media"),
        "nasa_truncated.mp4": ("video", "corrupt_media"),
        "random.mp4": ("unknown", "unidentified_media"),
        "wav_data_size_4g.wav": ("sound", "corrupt_media"),
    }
    for name, (kind, code) in expected.items():
        found = await probe(Source.of(folder / name))
        assert (found.kind, found.error_code) == (kind, code), name
