"""Places in pictures."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from sensorium.schemas.geometry import Box, scaled


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


@pytest.mark.parametrize("edges", [(2, 0, 1, 1), (0, 2, 1, 1), (math.nan, 0, 1, 1), (0, 0, 1, math.nan)])
def test_edges_in_disorder_are_refused(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValidationError, match="left <= right"):
        box(*edges)


def test_a_box_knows_its_size_and_corners() -> None:
    one = box(10, 20, 40, 60)
    assert (one.width, one.height, one.area) == (30, 40, 1200)
    assert one.corners == ((10, 20), (40, 20), (40, 60), (10, 60))
    assert Box.around(one.corners) == one


def test_scaling_moves_and_stretches() -> None:
    assert box(10, 20, 40, 60).scaled(2, 0.5) == box(20, 10, 80, 30)
    assert scaled(((1, 2), (3, 4)), 2, 3) == ((2, 6), (6, 12))


def test_what_hangs_over_the_edge_is_cut_and_what_is_outside_is_gone() -> None:
    assert box(-5, -5, 20, 20).within(10, 15) == box(0, 0, 10, 15)
    assert box(11, 0, 20, 10).within(10, 10) is None
    assert box(3, 3, 3, 5).within(10, 10) is None, "it has no area"
