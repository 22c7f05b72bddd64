from __future__ import annotations

import time

import pytest

from sensorium.engine import EARLY_SECONDS, Call
from sensorium.errors import DeadlineExceeded


def test_a_timer_that_goes_off_a_little_too_early_has_still_found_the_deadline() -> None:
    call = Call(deadline=time.monotonic() + EARLY_SECONDS / 2)
    assert call.is_late()
    with pytest.raises(DeadlineExceeded):
        call.patience()


def test_without_a_deadline_nothing_is_ever_late() -> None:
    assert not Call().is_late()
    assert Call().remaining() is None
