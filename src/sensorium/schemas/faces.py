"""The faces in a picture: where they are and, if asked for, what they look like. Not whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from sensorium.media.draw import Mark
from sensorium.schemas.base import Frozen, ImageInfo, ImageRequest, ImageResult, Result, Score
from sensorium.schemas.embed_faces import Embedding
from sensorium.schemas.geometry import Box, Point, scaled


class Pose(Frozen):
    """How a head is turned, in degrees; 0 looks straight at the camera. Which way is positive, the model decides."""

    yaw: float | None = Field(default=None, ge=-180, le=180, examples=[-12.5])
    """To the side."""
    pitch: float | None = Field(default=None, ge=-180, le=180, examples=[3.0])
    """Up or down."""
    roll: float | None = Field(default=None, ge=-180, le=180, examples=[1.5])
    """Within the plane of the picture."""


class FaceAttributes(Frozen):
    """What a face looks like, as far as the model says. Scores are how surely it is so: 0 no, 1 yes."""

    age: float | None = Field(default=None, ge=0, examples=[34])
    """The years that it looks like."""
    gender: Literal["female", "male"] | None = Field(default=None, examples=["female"])
    """What it looks like to the model."""
    gender_score: Score | None = Field(default=None, examples=[0.97])
    emotions: Mapping[str, Score] = Field(default={}, examples=[{"happy": 0.75, "sad": 0.0}])
    """How surely it shows each: `angry`, `disgusted`, `afraid`, `happy`, `sad`, `surprised`, `neutral`."""
    smile: Score | None = None
    """How broadly it smiles."""
    glasses: Score | None = None
    headwear: Score | None = None
    mask: Score | None = None
    eyes_open: Score | None = None
    blurred: Score | None = None
    underexposed: Score | None = None
    pose: Pose | None = None


class Face(Frozen):
    """One face."""

    box: Box
    """Around the face, from brow to chin; within the picture."""
    score: Score | None = Field(default=None, examples=[0.98])
    """How sure the model is that it is a face; absent where it does not say."""
    landmarks: Mapping[str, Point] = Field(
        default={},
        examples=[{"left_eye": (86, 84), "right_eye": (152, 86), "nose_tip": (118, 112)}],
    )
    """Points by name, where the model gives them. `left_eye`, `right_eye`, `nose_tip`, `mouth_left` and `mouth_right` mean
    the same for every model; others are its own. Left and right are as the viewer sees them."""
    attributes: FaceAttributes | None = None
    """Absent unless asked for, and where the model has none for this face."""
    embedding: Embedding | None = None
    """Numbers that are near, by Euclidean distance, to those of another picture of the same person: 128 by `dlib_faces`. Absent
    unless asked for. They can tell who somebody is: keep them as you would keep the picture."""
    crop: str | None = None
    """The face turned upright and cut out, 150 × 150 pixels by `dlib_faces`, as a data URL of a JPEG; absent unless asked for."""
    live: Score | None = None
    """How surely the face was in front of the camera, and is none on paper or on a screen; absent unless asked for."""


class Faces(ImageResult):
    """The faces in a picture, the surest first. No faces: none was found."""

    faces: tuple[Face, ...] = ()
    embedded_by: str = ""
    """The model that the embeddings are of, where they were asked for; those of two models cannot be compared."""
    untold: tuple[Literal["attributes"], ...] = ()
    """What was asked for, and the model tells of none of the faces."""

    def marks(self) -> tuple[Mark, ...]:
        return tuple(
            Mark(face.box.corners, "" if face.score is None else f"{face.score:.0%}", tuple(face.landmarks.values()))
            for face in self.faces
        )

    def moved_to(self, image: ImageInfo) -> Self:
        across, down = self.image.times_to(image)
        return self.altered(image=image, faces=tuple(_moved(face, across, down) for face in self.faces))


class FacesRequest(ImageRequest):
    """Find the faces in a picture."""

    task: ClassVar[str] = "faces"
    answer: ClassVar[type[Result]] = Faces

    min_score: Score = 0.5
    """Faces that the model is less sure of are left out; those of models that do not say how sure they are stay."""
    limit: int | None = Field(default=None, ge=1, le=1000)
    """How many faces to give, at most: the surest. Absent: all that the model finds."""
    attributes: bool = False
    """Also say what each looks like: age, expression and the like, as far as the model can tell."""
    embeddings: bool = False
    """Also describe each by numbers, to compare it with others; needs the extra `faces`."""
    crops: bool = False
    """Also give each turned upright and cut out, as a JPEG; needs the extra `faces`."""
    live: bool = False
    """Also say how surely each was in front of the camera; needs the model `anti_spoof`."""


def _moved(face: Face, across: float, down: float) -> Face:
    points = scaled(tuple(face.landmarks.values()), across, down)
    return face.altered(box=face.box.scaled(across, down), landmarks=dict(zip(face.landmarks, points, strict=True)))
