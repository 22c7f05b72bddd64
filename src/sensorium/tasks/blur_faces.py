"""Cover the faces in a picture, so that nobody is recognised by them."""

from __future__ import annotations

from sensorium.engine import Call
from sensorium.errors import Unavailable
from sensorium.media.conceal import Region, concealed
from sensorium.media.encode import as_file, writable
from sensorium.media.image import Image
from sensorium.media.pool import in_thread
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.blur_faces import BlurFacesRequest, BlurredFaces
from sensorium.schemas.faces import Faces, FacesRequest
from sensorium.schemas.geometry import Box

Request = BlurFacesRequest
ASKS = "faces"


async def run(request: BlurFacesRequest, call: Call) -> BlurredFaces:
    """The picture with every face covered that the model for `faces` finds.

    Raises what finding faces raises, and Unavailable where a model failed and another stood in: a picture is given only where
    the first choice has looked.
    """
    picture = await request.image.image()  # held, so that the model finds it decoded
    asked = FacesRequest(image=request.image, model=request.model, min_score=request.min_score)
    found: Faces = await call.run(asked)
    _refuse_stand_in(found)
    return await in_thread(_covered, request, picture, found)


def _refuse_stand_in(found: Faces) -> None:
    failed = found.meta.skipped
    if failed:
        names = ", ".join(one.engine for one in failed)
        raise Unavailable(
            f"No picture is given, as {names} could not look for faces",
            why="; ".join(one.message.removesuffix(".") for one in failed),
            fix=f"Mend that, or name by `model` who shall look instead, such as {found.meta.engine.partition('@')[0]}",
        )


def _covered(request: BlurFacesRequest, picture: Image, found: Faces) -> BlurredFaces:
    height, width = picture.pixels.shape[:2]
    across, down = width / picture.width, height / picture.height
    widened = (_widened(face.box, request.margin).scaled(across, down) for face in found.faces)
    boxes = tuple(placed for box in widened if (placed := box.within(width, height)) is not None)
    pixels = concealed(picture.pixels, [_region(box) for box in boxes], request.method)
    format_ = writable(request.format, picture.format, width, height)
    return BlurredFaces(
        image=ImageInfo.of(picture),
        data=as_file(pixels, format_),
        media_type=f"image/{format_}",
        width=width,
        height=height,
        faces=len(found.faces),
        boxes=boxes,
        detector=found.meta.engine,
    )


def _widened(box: Box, margin: float) -> Box:
    across, down = box.width * margin, box.height * margin
    return Box(left=box.left - across, top=box.top - down, right=box.right + across, bottom=box.bottom + down)


def _region(box: Box) -> Region:
    return box.left, box.top, box.right, box.bottom
