"""Read the text in a picture: Chinese and English."""

from __future__ import annotations

from sensorium.schemas.read import Reading, ReadRequest

Request = ReadRequest
DEFAULT = "ppocr_v6"


def tidy(request: ReadRequest, result: Reading) -> Reading:
    """Only lines that the engine is sure enough of."""
    sure = tuple(line for line in result.lines if line.score >= request.min_score)
    return result if len(sure) == len(result.lines) else result.model_copy(update={"lines": sure})
