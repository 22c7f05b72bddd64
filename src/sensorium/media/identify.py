"""What bytes are, by their content alone: a name may say anything."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

from sensorium.errors import UnidentifiedMedia, UnsupportedMedia

Family = Literal["picture", "video", "sound", "document", "archive", "program", "playlist", "text", "unknown"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file."""

    format: str
    family: Family
    mime: str
    called: str
    """What a person calls it, with its article."""


def _kinds(*rows: tuple[str, Family, str, str]) -> dict[str, Kind]:
    return {format_: Kind(format_, family, mime, called) for format_, family, mime, called in rows}


KINDS = _kinds(
    ("jpeg", "picture", "image/jpeg", "a JPEG"),
    ("png", "picture", "image/png", "a PNG"),
    ("gif", "picture", "image/gif", "a GIF"),
    ("bmp", "picture", "image/bmp", "a BMP"),
    ("webp", "picture", "image/webp", "a WebP"),
    ("tiff", "picture", "image/tiff", "a TIFF"),
    ("avif", "picture", "image/avif", "an AVIF"),
    ("heic", "picture", "image/heic", "a HEIC picture"),
    ("svg", "picture", "image/svg+xml", "an SVG drawing"),
    ("jpeg2000", "picture", "image/jp2", "a JPEG 2000 picture"),
    ("jpegxl", "picture", "image/jxl", "a JPEG XL picture"),
    ("jpegls", "picture", "image/jls", "a JPEG-LS picture"),
    ("psd", "picture", "image/vnd.adobe.photoshop", "a Photoshop file"),
    ("ico", "picture", "image/vnd.microsoft.icon", "a Windows icon"),
    ("icns", "picture", "image/icns", "a macOS icon"),
    ("tga", "picture", "image/x-tga", "a TGA picture"),
    ("dds", "picture", "image/vnd.ms-dds", "a DDS texture"),
    ("blp", "picture", "image/x-blp", "a BLP texture"),
    ("sgi", "picture", "image/sgi", "an SGI picture"),
    ("fli", "picture", "video/fli", "an Autodesk animation"),
    ("pnm", "picture", "image/x-portable-anymap", "a PNM picture"),
    ("qoi", "picture", "image/qoi", "a QOI picture"),
    ("exr", "picture", "image/x-exr", "an OpenEXR picture"),
    ("hdr", "picture", "image/vnd.radiance", "a Radiance HDR picture"),
    ("fits", "picture", "image/fits", "a FITS picture"),
    ("mng", "picture", "video/x-mng", "an MNG animation"),
    ("eps", "document", "application/postscript", "a PostScript document"),
    ("pdf", "document", "application/pdf", "a PDF document"),
    ("ole", "document", "application/x-ole-storage", "an old Microsoft Office document"),
    ("mp4", "video", "video/mp4", "an MP4 video"),
    ("mov", "video", "video/quicktime", "a QuickTime video"),
    ("matroska", "video", "video/x-matroska", "a Matroska or WebM video"),
    ("avi", "video", "video/x-msvideo", "an AVI video"),
    ("mpegts", "video", "video/mp2t", "an MPEG transport stream"),
    ("mpeg", "video", "video/mpeg", "an MPEG video"),
    ("flv", "video", "video/x-flv", "a Flash video"),
    ("asf", "video", "video/x-ms-asf", "a Windows Media file"),
    ("ogg", "sound", "audio/ogg", "an Ogg recording"),
    ("wav", "sound", "audio/wav", "a WAV recording"),
    ("flac", "sound", "audio/flac", "a FLAC recording"),
    ("mp3", "sound", "audio/mpeg", "an MP3 recording"),
    ("aac", "sound", "audio/aac", "an AAC recording"),
    ("m4a", "sound", "audio/mp4", "an MPEG-4 recording"),
    ("aiff", "sound", "audio/aiff", "an AIFF recording"),
    ("amr", "sound", "audio/amr", "an AMR recording"),
    ("midi", "sound", "audio/midi", "a MIDI file"),
    ("zip", "archive", "application/zip", "a ZIP archive"),
    ("gzip", "archive", "application/gzip", "a gzip archive"),
    ("bzip2", "archive", "application/x-bzip2", "a bzip2 archive"),
    ("xz", "archive", "application/x-xz", "an xz archive"),
    ("zstd", "archive", "application/zstd", "a Zstandard archive"),
    ("7z", "archive", "application/x-7z-compressed", "a 7-Zip archive"),
    ("rar", "archive", "application/vnd.rar", "a RAR archive"),
    ("tar", "archive", "application/x-tar", "a tar archive"),
    ("elf", "program", "application/x-elf", "a program for Linux"),
    ("exe", "program", "application/vnd.microsoft.portable-executable", "a program for Windows"),
    ("macho", "program", "application/x-mach-binary", "a program for macOS"),
    ("ffconcat", "playlist", "text/x-ffconcat", "an ffmpeg playlist"),
    ("m3u", "playlist", "application/vnd.apple.mpegurl", "an M3U playlist"),
    ("html", "text", "text/html", "a web page"),
    ("xml", "text", "text/xml", "an XML document"),
    ("text", "text", "text/plain", "text"),
)

ACCEPTED = ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif")
"""The formats of pictures that are decoded; each by one decoder that is kept to that format."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff\xf7", "jpegls"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"8BPS", "psd"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (0, b"\xff\x4f\xff\x51", "jpeg2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "jpegxl"),
    (0, b"\xff\x0a", "jpegxl"),
    (0, b"icns", "icns"),
    (0, b"DDS ", "dds"),
    (0, b"BLP1", "blp"),
    (0, b"BLP2", "blp"),
    (0, b"qoif", "qoi"),
    (0, b"\x76\x2f\x31\x01", "exr"),
    (0, b"#?RADIANCE", "hdr"),
    (0, b"SIMPLE  =", "fits"),
    (0, b"\x8aMNG\r\n\x1a\n", "mng"),
    (0, b"%!PS", "eps"),
    (0, b"\xc5\xd0\xd3\xc6", "eps"),
    (0, b"%PDF-", "pdf"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"\0\0\x01\xba", "mpeg"),
    (0, b"\0\0\x01\xb3", "mpeg"),
    (0, b"OggS", "ogg"),
    (0, b"fLaC", "flac"),
    (0, b"ID3", "mp3"),
    (0, b"#!AMR", "amr"),
    (0, b"MThd", "midi"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (257, b"ustar", "tar"),
    (0, b"\x7fELF", "elf"),
    (0, b"MZ", "exe"),
    (0, b"\xcf\xfa\xed\xfe", "macho"),
    (0, b"\xca\xfe\xba\xbe", "macho"),
)

_BRANDS = {  # of ISO base media files, by the first of these that the file claims
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "heic"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A "), "m4a"),
    b"qt  ": "mov",
    b"jxl ": "jpegxl",
    b"crx ": "heic",
}
_RIFF = {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}
_FORM = {b"AIFF": "aiff", b"AIFC": "aiff"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_HEAD = 4096
# Atomic groups: what failed once is not tried in all other ways, of which comments have exponentially many.
_MARKUP = re.compile(
    rb"(?>\s+|<\?xml[^>]*>|<!--.*?-->|(?i:<!DOCTYPE)[^\[>]*(?>\[.*?\]\s*)?>)*+<([A-Za-z:]+)", re.DOTALL
)


def identify(data: bytes) -> Kind | None:
    """The kind of file that starts with these bytes; None when it is no known one.

    The first 4 kB are enough for all but TGA, which is known by its last 18 bytes.
    """
    head = data[:_HEAD]
    name = _by_magic(head) or _by_structure(head) or _by_last_bytes(data) or _by_words(head)
    return KINDS[name] if name else None


def picture_kind(data: bytes, name: str) -> Kind:
    """The kind of an acceptable picture. Raises UnidentifiedMedia or UnsupportedMedia."""
    kind = identify(data)
    if kind is not None and kind.format in ACCEPTED:
        return kind
    raise refusal(kind, name, empty=not data)


def refusal(kind: Kind | None, name: str, *, empty: bool) -> UnidentifiedMedia | UnsupportedMedia:
    """The error for what is no acceptable picture."""
    fix = "Send one of: " + ", ".join(KINDS[format_].called.split(maxsplit=1)[1] for format_ in ACCEPTED)
    if empty:
        return UnidentifiedMedia(f"{name} is not a picture", why="it is empty", fix=fix)
    if kind is None:
        return UnidentifiedMedia(f"{name} is not a picture", why="its content is of no known kind", fix=fix)
    return UnsupportedMedia(f"{name} is not a picture that is read here", why=f"it is {kind.called}", fix=fix)


def _by_magic(head: bytes) -> str | None:
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    return None


def _by_structure(head: bytes) -> str | None:
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head.startswith((b"RF64", b"BW64")) and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"FORM"):
        return _FORM.get(head[8:12])
    if head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "bmp"
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith((b"\0\0\x01\0", b"\0\0\x02\0")) and len(head) >= 22 and 0 < head[4] + 256 * head[5] < 1000:
        return "ico"
    return _by_weak_signs(head)


def _by_brand(head: bytes) -> str:
    size = min(max(struct.unpack_from(">I", head)[0], 12), len(head))
    claimed = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if claimed[0] in (b"mif1", b"msf1") and (b"avif" in claimed or b"avis" in claimed):
        return "avif"
    return _BRANDS.get(claimed[0]) or next((_BRANDS[brand] for brand in claimed if brand in (b"avif", b"heic")), "mp4")


def _by_weak_signs(head: bytes) -> str | None:
    """Kinds whose mark is only two bytes, with a second look at what follows."""
    if len(head) > 188 * 2 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    if len(head) > 12 and head[:2] == b"\x01\xda" and head[2] < 2 and head[3] in (1, 2):
        return "sgi"
    if len(head) > 14 and head[4:6] in (b"\x11\xaf", b"\x12\xaf") and head[14:16] in (b"\0\0", b"\3\0"):
        return "fli"
    if re.match(rb"P[1-7][\s#]\s*(?:#[^\n]*\n\s*)*(?:\d|WIDTH|\Z)", head):
        return "pnm"
    if len(head) > 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        return "aac"
    # An MPEG audio frame: 11 bits of sync, layer II or III, and neither a forbidden bit rate nor sample rate.
    sound = len(head) > 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    if (
        sound
        and head[1] & 0x18 != 0x08
        and head[1] & 6 in (2, 4)
        and head[2] >> 4 not in (0, 15)
        and head[2] & 12 != 12
    ):
        return "mp3"
    return None


def _by_last_bytes(data: bytes) -> str | None:
    return "tga" if data[-18:] == b"TRUEVISION-XFILE.\0" else None


def _by_words(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text" if _is_text(head[: len(head) & ~1], "utf-16") else None
    words = head.removeprefix(b"\xef\xbb\xbf")
    if not words or not _is_text(words, "utf-8"):
        return None
    if words.lstrip().startswith(b"ffconcat"):
        return "ffconcat"
    if words.startswith(b"#EXTM3U"):
        return "m3u"
    return _by_markup(words) or "text"


def _by_markup(words: bytes) -> str | None:
    found = _MARKUP.match(words)
    if not found:
        return "svg" if words.lstrip().startswith(b"<") and b"<svg" in words else None
    root = found[1].lower().rpartition(b":")[2]
    return {b"svg": "svg", b"html": "html"}.get(root, "xml" if words.lstrip().startswith(b"<?xml") else None)


def _is_text(head: bytes, encoding: str) -> bool:
    try:
        words = head.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < _HEAD - 3:  # a character may be cut at the end
            return False
        words = head[: error.start].decode(encoding)
    return all(sign >= " " or sign in "\t\n\r\f\v\x1b" for sign in words)
