"""Say all that can be said of a picture: labels, text, colours and quality."""

from __future__ import annotations

import asyncio

from sensorium.engine import Call
from sensorium.errors import SensoriumError
from sensorium.schemas import base
from sensorium.schemas.analyze import Analysis, AnalyzeRequest, Failure, Part
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.classify import ClassifyRequest
from sensorium.schemas.describe_pixels import DescribePixelsRequest
from sensorium.schemas.read import ReadRequest

Request = AnalyzeRequest

ENOUGH = 512
"""The shorter side that all parts but `read` make do with, in pixels."""


async def run(request: AnalyzeRequest, call: Call) -> Analysis:
    """Run the parts at once on one decoded picture.

    Raises what the first part raised when all of them failed; otherwise failures stand in the answer.
    """
    # Held until the end, so that the parts find the picture decoded.
    picture = await request.image.image(at_least=None if "read" in request.parts else ENOUGH)
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


def _part(part: Part, request: AnalyzeRequest) -> base.Request:
    if part == "classify":
        return ClassifyRequest(image=request.image, top_k=request.top_k)
    return ReadRequest(image=request.image) if part == "read" else DescribePixelsRequest(image=request.image)


async def _outcome(request: base.Request, call: Call) -> base.Result | SensoriumError:
    try:
        answer: base.Result = await call.run(request)
    except SensoriumError as error:
        return error
    return answer


def _failure(error: SensoriumError) -> Failure:
    return Failure(code=error.code, message=str(error), retryable=error.retryable)
