"""Say all that can be said of a picture: labels, text, faces, colours and quality."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sensorium.engine import Call
from sensorium.errors import SensoriumError
from sensorium.schemas import base
from sensorium.schemas.analyze import Analysis, AnalyzeRequest, Failure, Part
from sensorium.schemas.base import ImageInfo, ImageRequest
from sensorium.schemas.classify import ClassifyRequest
from sensorium.schemas.describe_pixels import DescribePixelsRequest
from sensorium.schemas.faces import FacesRequest
from sensorium.schemas.read import ReadRequest

Request = AnalyzeRequest

PLAIN: dict[Part, type[ImageRequest]] = {
    "read": ReadRequest,
    "faces": FacesRequest,
    "describe_pixels": DescribePixelsRequest,
}
"""The parts that are asked for with nothing but the picture."""

ENOUGH: dict[Part, int | None] = {"classify": 512, "describe_pixels": 512, "faces": 1225, "read": None}
"""The shorter side that each part makes do with, in pixels; None: all there is."""


async def run(request: AnalyzeRequest, call: Call) -> Analysis:
    """Run the parts at once on one decoded picture.

    Raises what the first part raised when all of them failed; otherwise failures stand in the answer.
    """
    # Held until the end, so that the parts find the picture decoded.
    picture = await request.image.image(at_least=_enough(request.parts))
    asked = {part: _part(part, request) for part in request.parts}
    outcomes = await asyncio.gather(*(_outcome(part, call) for part in asked.values()))
    answers = dict(zip(asked, outcomes, strict=True))
    failures = {part: error for part, error in answers.items() if isinstance(error, SensoriumError)}
    if len(failures) == len(answers):
        raise next(iter(failures.values()))
    return Analysis(
        image=ImageInfo.of(picture),
        failures={part: _failure(error) for part, error in failures.items()},
        **{part: answer for part, answer in answers.items() if part not in failures},
    )


def _enough(parts: Iterable[Part]) -> int | None:
    wanted = [ENOUGH[part] for part in parts]
    return None if None in wanted else max(filter(None, wanted))


def _part(part: Part, request: AnalyzeRequest) -> base.Request:
    if part == "classify":
        return ClassifyRequest(image=request.image, top_k=request.top_k)
    return PLAIN[part](image=request.image)


async def _outcome(request: base.Request, call: Call) -> base.Result | SensoriumError:
    try:
        answer: base.Result = await call.run(request)
    except SensoriumError as error:
        return error
    return answer


def _failure(error: SensoriumError) -> Failure:
    return Failure(code=error.code, message=str(error), retryable=error.retryable)
