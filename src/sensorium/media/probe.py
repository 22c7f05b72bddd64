"""What a file is: a picture, a video, a sound, base64 text or something else, by its content."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import IO, Any, Literal

from sensorium.dependencies import need
from sensorium.errors import CorruptMedia, FileMissing, SensoriumError, UnsupportedMedia
from sensorium.media import limits as limits_of
from sensorium.media.identify import ACCEPTED, Kind, identify
from sensorium.media.pool import in_thread
from sensorium.media.source import Source, decode_base64

Family = Literal[
    "picture", "video", "sound", "base64 text", "text", "document", "archive", "program", "playlist", "unknown"
]

MOST_FRAMES = 10_000
"""Frames of a GIF, or pages of a TIFF, that are counted."""

_HEAD, _TAIL, _PIECE = 65536, 18, 1 << 20
_SHORTEST_BASE64 = 24
"""Characters below which a word of letters and digits is called text, unless what it stands for is a known kind."""

_DEMUXERS = {
    "mp4": "mov",
    "mov": "mov",
    "m4a": "mov",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpeg": "mpeg",
    "flv": "flv",
    "asf": "asf",
    "ogg": "ogg",
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "aiff": "aiff",
    "amr": "amr",
}
"""The demuxer of FFmpeg that each format is kept to. Playlists are not among them: they lead to other files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file is. Fields that do not apply are None."""

    name: str
    kind: Family
    format: str
    """`jpeg`, `mp4`, ...; `unknown` when nothing is recognised."""
    mime: str
    called: str
    """In words, such as `a JPEG`."""
    bytes: int
    sha256: str
    accepted: bool = False
    """Whether it can be analysed as a picture."""
    error: str | None = None
    """Why it cannot be, as the sentence that analysing it would give; for video and sound, why it cannot be read."""
    error_code: str | None = None

    width: int | None = None
    """Pixels across, upright."""
    height: int | None = None
    stored_width: int | None = None
    """Pixels across, before turning it upright."""
    stored_height: int | None = None
    orientation: int | None = None
    """1 to 8, as EXIF counts."""
    mode: str | None = None
    """Kind of pixels, in Pillow's words: RGB, CMYK, I;16, ..."""
    alpha: bool | None = None
    frames: int | None = None
    """Frames or pages; counted up to 10,000 where the header does not tell."""
    icc: str | None = None
    """Name of the colour profile."""

    duration_seconds: float | None = None
    fps: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    sample_rate: int | None = None
    """Samples a second."""
    channels: int | None = None

    inside: Probe | None = None
    """What base64 text stands for."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready fields, without those that do not apply."""
        return _without_none(asdict(self))


async def probe(source: Source) -> Probe:
    """What the source leads to. Errors in the content are told in the answer.

    Raises FileMissing, ForbiddenAddress or FetchFailed when there is nothing to look at; InputTooLarge for a URL.
    A file on disk may be of any size: only pictures and base64 text are read as a whole.
    """
    if source.kind == "url":
        await source.read()
    limits = limits_of.current()
    found = await in_thread(_first_look, source)
    if found.kind == "picture":
        return await _picture(source, found)
    if found.kind in ("video", "sound"):
        return await in_thread(_recording, source, found)
    if found.kind == "text" and found.bytes <= limits.max_bytes * 4 // 3 + limits.max_bytes // 16:
        return await in_thread(_perhaps_base64, source, found)
    return _refused(found)


def _first_look(source: Source) -> Probe:
    digest = hashlib.sha256()
    with _opened(source) as file:
        head = file.read(_HEAD)
        digest.update(head)
        size, tail = len(head), head[-_TAIL:]
        while piece := file.read(_PIECE):
            digest.update(piece)
            size, tail = size + len(piece), (tail + piece)[-_TAIL:]
    kind = identify(head + tail if size > _HEAD else head)
    return Probe(
        name=source.name,
        kind=kind.family if kind else "unknown",
        format=kind.format if kind else "unknown",
        mime=kind.mime if kind else "application/octet-stream",
        called=kind.called if kind else ("nothing: it is empty" if not size else "of no known kind"),
        bytes=size,
        sha256=digest.hexdigest(),
    )


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    """The source as a file to read from: a file on disk is not read into memory."""
    if source.path is None:
        yield io.BytesIO(source.read_now())
        return
    try:
        if not stat.S_ISREG(source.path.stat().st_mode):
            raise FileMissing(f"Cannot read {source.name!r}", why="it is not a regular file", fix="Give a file's path")
        with source.path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise FileMissing(f"Cannot read {source.name!r}", why=why, fix="Check the path") from error


def _refused(found: Probe) -> Probe:
    """With the error that analysing it as a picture would give."""
    from sensorium.media.identify import refusal

    known = Kind(found.format, "unknown", found.mime, found.called) if found.kind != "unknown" else None
    return _with_error(found, refusal(known, found.name, empty=not found.bytes))


def _with_error(found: Probe, error: SensoriumError) -> Probe:
    return replace(found, accepted=False, error=str(error), error_code=error.code)


async def _picture(source: Source, found: Probe) -> Probe:
    if found.format not in ACCEPTED:
        return _refused(found)
    try:
        found = await in_thread(_header, source, found)
        await source.image(at_least=1)  # all of it, as small as may be: the only way to know that nothing is missing
    except SensoriumError as error:
        return _with_error(found, error)
    return replace(found, accepted=True)


def _header(source: Source, found: Probe) -> Probe:
    from sensorium.media import colour
    from sensorium.media.decode import describe

    opened = describe(source.read_now(), source.name)
    told = opened.told()
    width, height = opened.upright_size
    return replace(
        found,
        width=width,
        height=height,
        stored_width=opened.width,
        stored_height=opened.height,
        orientation=opened.orientation,
        mode=told.mode,
        alpha=told.alpha,
        icc=colour.profile_name(told.icc),
        frames=_frames(opened.data, found.format, told.frames),
    )


def _frames(data: bytes, format_: str, told: int) -> int:
    if format_ == "gif":
        return _gif_frames(data)
    if format_ == "tiff" and data[2:4] in (b"*\0", b"\0*"):
        return _tiff_pages(data)
    return told


def _gif_frames(data: bytes) -> int:
    """How many frames a GIF has. Source: GIF89a specification, 17 to 26."""

    def colours_after(at: int) -> int:
        return 3 << ((data[at] & 7) + 1) if data[at] & 0x80 else 0

    frames = 0
    try:
        at = 13 + colours_after(10)
        while frames < MOST_FRAMES and data[at] != 0x3B:
            if data[at] == 0x2C:
                frames += 1
                at += 11 + colours_after(at + 9)
            else:
                at += 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        pass  # cut short: the frames so far
    return max(frames, 1)


def _tiff_pages(data: bytes) -> int:
    """How many directories are chained. Source: TIFF 6.0, section 2."""
    order = "<" if data[:2] == b"II" else ">"
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        while at and at not in seen and len(seen) < MOST_FRAMES:
            (count,) = struct.unpack_from(order + "H", data, at)
            seen.add(at)
            (at,) = struct.unpack_from(order + "I", data, at + 2 + 12 * count)
    except struct.error:
        pass  # the chain leads out of the file: the pages so far
    return max(len(seen), 1)


def _recording(source: Source, found: Probe) -> Probe:
    refused = _refused(found)
    try:
        av = need("av", for_what=f"read {found.called}")
        with _opened(source) as file:
            told = _streams(av, file, found)
        cut = _cut_short(source, found)
    except SensoriumError as error:
        return _with_error(found, error)
    return _with_error(told, cut) if cut else replace(told, error=refused.error, error_code=refused.error_code)


def _streams(av: Any, file: IO[bytes], found: Probe) -> Probe:
    demuxer = _DEMUXERS.get(found.format)
    if demuxer is None:
        raise UnsupportedMedia(f"Cannot read {found.name}", why=f"{found.called} is not read here")
    with (
        _as_ours(found),
        # The file is handed over open, and its demuxer named, so FFmpeg has no reason and no right to open another.
        av.open(file, format=demuxer, options={"protocol_whitelist": "none"}) as container,
    ):
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise CorruptMedia(f"Cannot read {found.name}", why="there is neither picture nor sound in it")
        return replace(
            found,
            kind="video" if _moves(video) else "sound",
            duration_seconds=_duration(container, video, audio),
            **(_of_video(video) if _moves(video) else {}),
            **(_of_audio(audio) if audio is not None else {}),
        )


@contextmanager
def _as_ours(found: Probe) -> Iterator[None]:
    try:
        yield
    except SensoriumError:
        raise
    except Exception as error:
        why = f"it is {found.called}, but damaged or cut short ({getattr(error, 'strerror', None) or error})"
        raise CorruptMedia(f"Cannot read {found.name}", why=why, fix="Get the file again") from error


def _moves(video: Any) -> bool:
    """Whether it is a real video stream; the cover of a record is one too, of a single picture."""
    return video is not None and video.codec_context.name not in ("mjpeg", "png", "bmp", "gif", "webp")


def _duration(container: Any, video: Any, audio: Any) -> float | None:
    if container.duration is not None:
        return float(round(container.duration / 1_000_000, 3))  # AV_TIME_BASE: microseconds
    for stream in (video, audio):
        if stream is not None and stream.duration is not None and stream.time_base:
            return round(float(stream.duration * stream.time_base), 3)
    return None


def _of_video(video: Any) -> dict[str, Any]:
    rate = video.average_rate or video.guessed_rate
    return {
        "width": video.codec_context.width or None,
        "height": video.codec_context.height or None,
        "fps": round(float(rate), 3) if rate else None,
        "video_codec": video.codec_context.name,
    }


def _of_audio(audio: Any) -> dict[str, Any]:
    context = audio.codec_context
    return {
        "audio_codec": context.name,
        "sample_rate": context.sample_rate or None,
        "channels": context.channels or None,
    }


def _cut_short(source: Source, found: Probe) -> CorruptMedia | None:
    """The error for a file that is shorter than its own header says."""
    promised_in = _PROMISES.get(found.format)
    if promised_in is None:
        return None
    with _opened(source) as file:
        promised = promised_in(file)
    if promised <= found.bytes:
        return None
    why = f"its header promises {promised:,} bytes, and it has {found.bytes:,}"
    return CorruptMedia(f"{found.name} is cut short", why=why, fix="Get the file again")


def _promised_by_riff(file: IO[bytes]) -> int:
    """The end of the furthest chunk. A recorder that could not go back leaves 0 or 4 GB - 1, which promises nothing."""
    head, end = file.read(12), 12
    while head[:4] == b"RIFF" and len(chunk := file.read(8)) == 8:
        size = struct.unpack("<I", chunk[4:])[0]
        if size in (0, 0xFFFFFFFF):
            break
        end += 8 + size
        file.seek(size + size % 2, io.SEEK_CUR)
        end += size % 2
    return end - end % 2


def _promised_by_boxes(file: IO[bytes]) -> int:
    """The end of the last top-level box. Source: ISO/IEC 14496-12, 4.2."""
    end = 0
    while len(head := file.read(8)) == 8:
        (size,) = struct.unpack(">I", head[:4])
        if size == 1 and len(large := file.read(8)) == 8:
            (size,) = struct.unpack(">Q", large)
        if size < 8:  # 0: to the end of the file, whatever that is
            break
        end += size
        if end > 1 << 62:
            break
        file.seek(end)
    return end


_PROMISES: dict[str, Callable[[IO[bytes]], int]] = {
    **dict.fromkeys(("wav", "avi"), _promised_by_riff),
    **dict.fromkeys(("mp4", "mov", "m4a"), _promised_by_boxes),
}


def _perhaps_base64(source: Source, found: Probe) -> Probe:
    with _opened(source) as file:
        text = file.read()
    prefix = re.match(rb"\s*data:[^,]{0,200}?;base64,", text)
    inside = _decoded(text[prefix.end() :] if prefix else text)
    if inside is None:
        return _refused(found)
    kind = identify(inside)
    if not (prefix or (kind is not None and kind.family != "text") or _looks_like_base64(text)):
        return _refused(found)
    within = Source.held(inside, f"the content of {found.name}")
    told = replace(found, kind="base64 text", format="base64", called="base64 text", inside=_inner(within))
    error = UnsupportedMedia(
        f"{found.name} is not a picture",
        why=f"it is base64 text, of {told.inside.called if told.inside else 'nothing'}",
        fix="Decode it, or hand it over by `Source.base64` or as a data URL",
    )
    return _with_error(told, error)


def _looks_like_base64(text: bytes) -> bool:
    """Whether it is one long word, or lines of one length: prose of letters alone would decode too."""
    *lines, last = text.split()
    return (
        len(text) >= _SHORTEST_BASE64
        and len({len(line) for line in lines}) <= 1
        and len(last) <= len(lines[0] if lines else last)
    )


def _inner(source: Source) -> Probe:
    """As `probe`, one level deep, in this thread."""
    found = _first_look(source)
    if found.kind in ("video", "sound"):
        return _recording(source, found)
    if found.format not in ACCEPTED:
        return _refused(found)
    try:
        found = _header(source, found)
        source.image_now(at_least=1)
    except SensoriumError as error:
        return _with_error(found, error)
    return replace(found, accepted=True)


def _decoded(text: bytes) -> bytes | None:
    try:
        return decode_base64(text) or None
    except SensoriumError:
        return None


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }
