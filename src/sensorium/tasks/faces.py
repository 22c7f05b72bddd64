"""Find the faces in a picture, and say where they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sensorium.engine import Call
from sensorium.schemas.base import Result
from sensorium.schemas.check_live import CheckLiveRequest, Liveness
from sensorium.schemas.embed_faces import MOST_FACES, EmbedFacesRequest, FaceEmbeddings
from sensorium.schemas.faces import Face, Faces, FacesRequest

Request = FacesRequest
DEFAULT = ("yunet", "dlib_faces", "haar_frontalface")


def needs(request: FacesRequest) -> tuple[str, ...]:
    """The parts that others answer than who finds the faces."""
    embedded = ("embed_faces",) if request.embeddings or request.crops else ()
    return (*embedded, *(("check_live",) if request.live else ()))


def tidy(request: FacesRequest, result: Faces) -> Faces:
    """The surest first, of equally sure ones the largest; within the picture; and no more than were asked for."""
    sure = [face for face in result.faces if face.score is None or face.score >= request.min_score]
    seen = [placed for face in sure if (placed := _within(face, result)) is not None]
    seen.sort(key=lambda face: (-(face.score or 0.0), -face.box.area))
    shown = seen[: request.limit]
    if not request.attributes:
        return result.altered(faces=tuple(map(_bare, shown)))
    told = not shown or any(face.attributes is not None for face in shown)
    return result.altered(faces=tuple(shown), untold=() if told else ("attributes",))


async def around(request: FacesRequest, call: Call, ask: Callable[[FacesRequest], Awaitable[Faces]]) -> Faces:
    """The faces as any model finds them, with what other models say of each."""
    parts = needs(request)
    if not parts:
        return await ask(request)
    # Who finds faces has nothing to do with the rest, and remembers one answer for all ways to ask.
    found = await ask(request.altered(embeddings=False, crops=False, live=False))
    boxes = tuple(face.box for face in found.faces[:MOST_FACES])
    if "embed_faces" in parts:
        embedded = await call.run(EmbedFacesRequest(image=request.image, boxes=boxes, crops=request.crops))
        found = _described(found, embedded, request)
    if "check_live" in parts:
        checked = await call.run(CheckLiveRequest(image=request.image, boxes=boxes))
        found = _checked(found, checked)
    return found


def _described(found: Faces, told: FaceEmbeddings, request: FacesRequest) -> Faces:
    faces = tuple(
        face.altered(embedding=one.embedding if request.embeddings else None, crop=one.crop)
        for face, one in zip(found.faces, told.faces, strict=False)
    )
    rest = found.faces[len(faces) :]
    return _also(found.altered(faces=(*faces, *rest), embedded_by=told.meta.engine if request.embeddings else ""), told)


def _checked(found: Faces, told: Liveness) -> Faces:
    faces = tuple(face.altered(live=live) for face, live in zip(found.faces, told.scores, strict=False))
    return _also(found.altered(faces=(*faces, *found.faces[len(faces) :])), told)


def _also(found: Faces, part: Result) -> Faces:
    """The faces, with how the part came about: what was passed over there is told, and is new if the part is."""
    meta = found.meta
    return found.stamped(
        skipped=(*meta.skipped, *part.meta.skipped),
        cached=meta.cached and part.meta.cached,
        loading_seconds=meta.loading_seconds + part.meta.loading_seconds,
    )


def _within(face: Face, result: Faces) -> Face | None:
    box = face.box.within(result.image.width, result.image.height)
    return face.altered(box=box) if box is not None else None


def _bare(face: Face) -> Face:
    return face.altered(attributes=None) if face.attributes is not None else face
