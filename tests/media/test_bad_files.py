"""The collection of damaged, hostile and odd files: each gives a picture or one clear error, in bounds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.media.source import Source

_CHILD = """
import asyncio, json, sys, time
from sensorium.errors import SensoriumError
from sensorium.media.source import Source

def megabytes():
    # Not getrusage: on Linux it begins with what the parent had when it started this process.
    try:
        status = open("/proc/self/status").read()
    except OSError:  # elsewhere
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3

async def main():
    for path in json.load(sys.stdin):
        start = time.process_time()
        try:
            image = await Source.of(path).image()
            told = {"format": image.format, "width": image.width, "height": image.height}
        except SensoriumError as error:
            told = {"code": error.code, "message": str(error)}
        print(json.dumps({**told, "path": path, "seconds": time.process_time() - start, "megabytes": megabytes()}))

asyncio.run(main())
"""

ACCEPTED = {"JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"}

# Damage that Pillow meets in later frames, or only because it counts them; the first is whole.
FIRST_FRAME_IS_WHOLE = {
    "pillow/animated/apng_chunk_no_fdat.png",
    "pillow/animated/apng_sequence_fdat_fctl.png",
    "pillow/animated/apng_sequence_gap.png",
    "pillow/animated/apng_syntax_num_frames_high.png",
    "pillow/bomb/decompression_bomb_extents.gif",
    "pillow/truncated/sugarshack_no_data.mpo",
}
MUST_DECODE = ("pngsuite-valid", "orientation", "odd-size", "polyglot", "wrong-extension")
MUST_BE_REFUSED = (
    "pngsuite-corrupt",
    "empty",
    "svg",
    "names",
    "wrong-type",
    "ssrf",
    "truncated-audio",
    "truncated-video",
    "lying-header",
    "heic",
)


def _manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


@pytest.fixture(scope="module")
def outcomes(shared_data: Path) -> dict[str, dict[str, Any]]:
    """What became of every file, in one process of its own."""
    folder = shared_data / "bad"
    files = [row["file"] for row in _manifest(folder)]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps([str(folder / file) for file in files]),
        capture_output=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "Traceback" not in child.stderr
    return dict(zip(files, map(json.loads, child.stdout.splitlines()), strict=True))


def test_every_file_gives_a_picture_or_an_error_in_bounds(outcomes: dict[str, dict[str, Any]]) -> None:
    for file, told in outcomes.items():
        assert ("width" in told) != ("code" in told), file
        assert told["seconds"] < 10, file
        assert told["megabytes"] < 1000, file
        if "code" in told:
            assert Path(file).name in told["message"], told["message"]
            assert told["code"] in {"unidentified_media", "unsupported_media", "corrupt_media", "input_too_large"}, told


def test_the_manifest_is_kept_to(shared_data: Path, outcomes: dict[str, dict[str, Any]]) -> None:
    for row in _manifest(shared_data / "bad"):
        file, told = row["file"], outcomes[row["file"]]
        if row["category"] in MUST_BE_REFUSED or "must be refused" in row["note"]:
            assert "code" in told, file
        elif row["category"] in MUST_DECODE or file in FIRST_FRAME_IS_WHOLE:
            assert "width" in told, told
        elif row["format"] in ACCEPTED:
            sizes = {(told.get("width"), told.get("height"))}
            assert sizes <= {(int(row["width"]), int(row["height"])), (int(row["height"]), int(row["width"]))}, told
        else:
            assert "code" in told, file


def test_bombs_are_refused_for_their_size(outcomes: dict[str, dict[str, Any]]) -> None:
    for name in ("bomb_20000x20000_1bit.png", "header_only_60000x60000.png"):
        assert outcomes[f"made/{name}"]["code"] == "input_too_large"


def test_the_same_photograph_comes_out_of_all_orientations(shared_data: Path) -> None:
    folder = shared_data / "bad" / "exif-orientation"
    upright = Source.of(folder / "Landscape_1.jpg").image_now().pixels.astype(int)
    for orientation in range(9):
        image = Source.of(folder / f"Landscape_{orientation}.jpg").image_now()
        assert (image.width, image.height) == (1800, 1200)
        assert np.abs(image.pixels - upright).mean() < 12, orientation


def test_white_writing_on_nothing_can_be_read(shared_data: Path) -> None:
    for name, behind in (("white", 0), ("black", 255)):
        path = shared_data / "ocr" / "rapidocr" / f"{name}_font_color_transparent.png"
        pixels = Source.of(path).image_now().pixels
        assert pixels[0, 0].tolist() == [behind] * 3
        assert np.ptp(pixels) > 200
