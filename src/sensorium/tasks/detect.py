"""Find the things in a picture, and say where they are."""

from __future__ import annotations

from sensorium.schemas.detect import DetectedObject, Detections, DetectRequest

Request = DetectRequest


def tidy(request: DetectRequest, result: Detections) -> Detections:
    """The surest first; within the picture; and only what was asked for, whatever the engine gave."""
    names = {name.casefold() for name in request.names}
    wanted = [
        one for one in result.objects if one.score >= request.min_score and (not names or one.name.casefold() in names)
    ]
    wanted.sort(key=lambda one: -one.score)
    seen = [placed for one in wanted if (placed := _within(one, result)) is not None]
    return result.altered(objects=tuple(seen[: request.limit]))


def _within(one: DetectedObject, result: Detections) -> DetectedObject | None:
    box = one.box.within(result.image.width, result.image.height)
    return one.altered(box=box) if box is not None else None
