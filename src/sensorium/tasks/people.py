"""Find the people in a picture, and say where they are."""

from __future__ import annotations

from sensorium.schemas.people import People, PeopleRequest, Person

Request = PeopleRequest
DEFAULT = "hog_people"


def tidy(request: PeopleRequest, result: People) -> People:
    """The surest first; within the picture; and no more than were asked for."""
    sure = [one for one in result.people if one.score >= request.min_score]
    seen = [placed for one in sure if (placed := _within(one, result)) is not None]
    seen.sort(key=lambda one: -one.score)
    return result.altered(people=tuple(seen[: request.limit]))


def _within(one: Person, result: People) -> Person | None:
    box = one.box.within(result.image.width, result.image.height)
    return one.altered(box=box) if box is not None else None
