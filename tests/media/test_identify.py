"""Kinds of files, by their content alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sensorium.errors import UnidentifiedMedia, UnsupportedMedia
from sensorium.media.identify import KINDS, identify, picture_kind


@pytest.mark.parametrize(
    ("head", "format_"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "bmp"),
        (b"BMW is a car maker", "text"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1", "avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "avif"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "mov"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A ", "m4a"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"ID3\x04", "mp3"),
        (b"\xff\xfb\x90\x64\0", "mp3"),
        (b"\xff\xf1\x50\x80\0", "aac"),
        (b"\xff\xfeh\0i\0", "text"),
        ("﻿中文".encode(), "text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
        (b"<?xml version='1.0'?><!-- x --><!DOCTYPE svg [<!ENTITY a 'b'>]>\n<svg/>", "svg"),
        (b"<!doctype html><html>", "html"),
        (b"<?xml version='1.0'?><note/>", "xml"),
        (b"ffconcat version 1.0\nfile x", "ffconcat"),
        (b"#EXTM3U\n", "m3u"),
        (b"%PDF-1.7", "pdf"),
        (b"PK\x03\x04", "zip"),
        (b"P6 3 4 255 ", "pnm"),
        (b"P6 is a name", "text"),
        (b"\0" * 20 + b"TRUEVISION-XFILE.\0", "tga"),
    ],
)
def test_content_tells_the_kind(head: bytes, format_: str) -> None:
    kind = identify(head)
    assert kind is not None
    assert kind.format == format_


@pytest.mark.parametrize("data", [b"", b"\0", b"\x01\x02\x03" * 50, b"RIFF\0\0\0\0XXXX", b"text\0with zero"])
def test_what_is_not_known_is_not_guessed(data: bytes) -> None:
    assert identify(data) is None


def test_an_error_says_what_it_is_and_what_is_accepted() -> None:
    with pytest.raises(UnsupportedMedia, match=r"x is not .* an SVG drawing.*JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF"):
        picture_kind(b"<svg/>", "x")
    with pytest.raises(UnidentifiedMedia, match="empty"):
        picture_kind(b"", "x")
    with pytest.raises(UnidentifiedMedia, match="no known kind"):
        picture_kind(b"\0\1\2", "x")


def test_every_kind_is_called_something() -> None:
    assert all(kind.called and "/" in kind.mime for kind in KINDS.values())


@pytest.mark.parametrize(
    "head", [b"<!-- -->" * 600, b"<!--" * 2000, b"<?xml " * 900, b"<!DOCTYPE [" * 500, b"P1#\n" * 1500]
)
def test_made_up_markup_takes_no_time(head: bytes) -> None:
    start = time.process_time()
    identify(head)
    assert time.process_time() - start < 1


def test_names_do_not_matter(shared_data: Path) -> None:
    made = shared_data / "bad" / "made"
    assert picture_kind((made / "png_named.jpg").read_bytes(), "x").format == "png"
    assert picture_kind((made / "polyglot_png_zip.png").read_bytes(), "x").format == "png"
    with pytest.raises(UnsupportedMedia, match="it is text"):
        picture_kind((made / "text_named.png").read_bytes(), "x")
