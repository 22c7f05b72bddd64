"""Events of a stream, however their bytes come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import StreamBroken
from sensorium.runtimes.sse import Events


def read(*reads: bytes) -> list[bytes]:
    events = Events()
    return [data for one in reads for data in events.feed(one)] + events.finish()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:a\ndata: b\ndata:  c\n\n", [b"a\nb\n c"]),
        (b": a comment\n\n: another\ndata: a\n: in between\n\n", [b"a"]),
        (b"event: ping\nid: 7\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"id: 7\n\n: ping\n\n", []),
        (b"data:\n\ndata\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"database: a\n\n data: b\n\n", []),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data: \xff\x00\n\n", [b"\xff\x00"]),
        (b"", []),
    ],
)
def test_events_are_what_the_standard_says_in_one_read_and_byte_by_byte(stream: bytes, events: list[bytes]) -> None:
    assert read(stream) == events
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == events


@given(
    st.lists(st.sampled_from([b"data: a", b"data:b", b": c", b"\r", b"\n", b"\r\n", b"\n\n", b"id: 1", b"x"])),
    st.lists(st.integers(0, 200)),
)
def test_where_reads_are_cut_changes_nothing(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read(*(stream[start:end] for start, end in pairwise(places))) == read(stream)


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 90, b"data: " + b"x" * 9 + b"\n", b"y" * 90])
def test_an_event_that_is_too_long_is_broken_off(piece: bytes) -> None:
    events = Events(longest=100)
    with pytest.raises(StreamBroken, match="over 100 bytes"):
        _ = [events.feed(piece) for _ in range(30)]


def test_comments_and_short_events_may_go_on_for_ever() -> None:
    events = Events(longest=100)
    for _ in range(100):
        assert events.feed(b": keep-alive\n") == []
        assert events.feed(b"data: a\n\n") == [b"a"]


def test_events_have_the_names_that_they_came_with() -> None:
    events = Events()
    assert events.feed(b"event: delta\ndata: a\n\ndata: b\n\nevent:end\n") == [b"a", b"b"]
    assert events.kinds == [b"delta", b""]
    assert events.feed(b"data: c\n\nevent: lost\n\ndata: d\n\n") == [b"c", b"d"]
    assert events.kinds == [b"end", b""]
