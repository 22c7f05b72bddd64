"""Find the faces in a picture, and say where they are."""

from __future__ import annotations

from sensorium.schemas.faces import Face, Faces, FacesRequest

Request = FacesRequest
DEFAULT = ("yunet", "haar_frontalface")


def tidy(request: FacesRequest, result: Faces) -> Faces:
    """The surest first, of equally sure ones the largest; within the picture; and no more than were asked for."""
    sure = [face for face in result.faces if face.score is None or face.score >= request.min_score]
    seen = [placed for face in sure if (placed := _within(face, result)) is not None]
    seen.sort(key=lambda face: (-(face.score or 0.0), -face.box.area))
    shown = seen[: request.limit]
    return result.altered(faces=tuple(shown if request.attributes else map(_bare, shown)))


def _within(face: Face, result: Faces) -> Face | None:
    box = face.box.within(result.image.width, result.image.height)
    return face.altered(box=box) if box is not None else None


def _bare(face: Face) -> Face:
    return face.altered(attributes=None) if face.attributes is not None else face
