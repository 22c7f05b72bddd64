"""A process that works on what its parent sends, and ends when its parent does.

Run as a module. The settings come as the first part on standard input; each further one is a chunk: its number, and its
orders. Answered by the number and the outcomes, in any order of chunks. A first answer without outcomes says that it is ready.
"""

from __future__ import annotations

import asyncio
import gc
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from pydantic_core import from_json, to_json

from sensorium.config import exactly
from sensorium.errors import SensoriumError
from sensorium.runtimes.memory import keep_little

HEAD = struct.Struct("!QI")
"""The number of a chunk, and how many parts it has."""
LENGTH = struct.Struct("!I")

READY, REFUSED = 0, 2**64 - 1
"""Numbers that no chunk has: that the process is ready, and that it cannot be, with the error."""


def packed(number: int, parts: Sequence[bytes]) -> bytes:
    """A chunk as it goes through the pipe."""
    told = [HEAD.pack(number, len(parts))]
    for part in parts:
        told += (LENGTH.pack(len(part)), part)
    return b"".join(told)


def main() -> None:
    """Read, work and answer until standard input ends."""
    keep_little()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # so that nothing else can get between the answers
    orders = os.fdopen(0, "rb", closefd=False)
    asyncio.run(_serve(orders, answers))


async def _serve(orders: BinaryIO, answers: BinaryIO) -> None:
    from sensorium.jobs.work import work
    from sensorium.service import Sensorium

    loop, running = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    lock = threading.Lock()

    def tell(number: int, parts: Sequence[bytes]) -> None:
        data = memoryview(packed(number, parts))
        with lock:
            while data:
                data = data[answers.write(data) or 0 :]

    async def do(number: int, chunk: list[bytes]) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, as standard input will tell
            await asyncio.to_thread(tell, number, await work(service, chunk))

    def begin(number: int, chunk: list[bytes]) -> None:
        task = loop.create_task(do(number, chunk))
        running.add(task)
        task.add_done_callback(running.discard)

    def listen() -> None:
        """In a thread of its own. When the parent has gone nobody wants what is under way."""
        while (chunk := _read(orders)) is not None:
            loop.call_soon_threadsafe(begin, *chunk)
        os._exit(0)

    try:
        service = Sensorium(exactly(from_json((_read(orders) or (0, [b"{}"]))[1][0])))
    except SensoriumError as error:
        tell(REFUSED, [to_json(error.as_dict())])
        return
    # As in servers: next to nothing here is garbage that refers to itself, and looking for it takes time.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    tell(READY, [])
    threading.Thread(target=listen, daemon=True).start()
    await asyncio.Event().wait()


def _read(pipe: BinaryIO) -> tuple[int, list[bytes]] | None:
    """The next chunk; None at the end."""
    head = pipe.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    number, count = HEAD.unpack(head)
    parts = []
    for _ in range(count):
        length = pipe.read(LENGTH.size)
        parts.append(pipe.read(LENGTH.unpack(length)[0]) if len(length) == LENGTH.size else b"")
    return number, parts


if __name__ == "__main__":
    main()
