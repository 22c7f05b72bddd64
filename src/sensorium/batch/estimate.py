"""What a batch will take and cost of a model that is paid, before it is asked."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from sensorium.batch.inputs import Item
from sensorium.errors import SensoriumError
from sensorium.schemas.base import checked
from sensorium.schemas.tokens import TokenCount, TokensRequest
from sensorium.service import Sensorium

SAMPLE = 32
"""Pictures that are looked at; only their headers are."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of all that is left to do."""

    count: int
    """Inputs."""
    input_tokens: int
    most_output_tokens: int
    """If every answer is as long as it may be."""
    input_cost: float | None
    """In US dollars; None where no price is known."""
    most_cost: float | None
    """With the longest answers."""
    input_cost_each: float
    most_cost_each: float
    """Of the dearest input that was looked at."""


class Sample:
    """Some of many inputs, each of which is as likely to be among them."""

    def __init__(self) -> None:
        self.count = 0
        self.items: list[Item] = []
        self._random = random.Random(0)  # noqa: S311 - nothing secret

    def add(self, item: Item) -> None:
        self.count += 1
        if len(self.items) < SAMPLE:
            self.items.append(item)
        elif (place := self._random.randrange(self.count)) < SAMPLE:
            self.items[place] = item


async def estimate(service: Sensorium, sample: Sample, fields: dict[str, object]) -> Estimate | None:
    """By the pictures of the sample that can be read; None when there is none. `fields` are those of the questions."""
    counted = [told for item in sample.items if (told := await _counted(service, item, fields)) is not None]
    if not sample.items:
        return Estimate(0, 0, 0, 0.0, 0.0, 0.0, 0.0)
    if not counted:
        return None
    costs = [one.most_cost for one in counted if one.most_cost is not None]
    inputs = [one.input_cost for one in counted if one.input_cost is not None]
    times, known = sample.count / len(counted), len(costs) == len(counted)
    return Estimate(
        count=sample.count,
        input_tokens=round(times * sum(one.input_tokens for one in counted)),
        most_output_tokens=round(times * sum(one.most_output_tokens for one in counted)),
        input_cost=times * sum(inputs) if known else None,
        most_cost=times * sum(costs) if known else None,
        input_cost_each=max(inputs, default=0.0),
        most_cost_each=max(costs, default=0.0),
    )


async def _counted(service: Sensorium, item: Item, fields: dict[str, object]) -> TokenCount | None:
    shared = {name: value for name, value in fields.items() if name in TokensRequest.model_fields}
    try:
        asked = checked(TokensRequest, {**shared, "image": item.source}, "tokens", trusted=True)
        told: TokenCount = await service.run(asked)
    except SensoriumError:
        return None
    return told


def sample_of(items: Iterable[Item]) -> Sample:
    sample = Sample()
    for item in items:
        if isinstance(item.source, dict):
            sample.add(item)
    return sample
