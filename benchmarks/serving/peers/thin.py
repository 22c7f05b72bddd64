"""The least that answers over HTTP: two processes, one thread each, that do nothing but the bare loop's step.

No limits, keys, counters, timeouts, logs or errors; a slow client holds up all others. What it gives is the most that
any server in Python could.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from pathlib import Path

from benchmarks.classify import bare_bytes

END_OF_HEAD = b"\r\n\r\n"


def serve(listening: socket.socket, graph: Path) -> None:
    """Until the process is killed."""
    one, waiting = bare_bytes(graph), selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ, None)
    while True:
        for key, _ in waiting.select():
            if key.data is None:
                accept(listening, waiting)
            elif not heard(key.fileobj, key.data, one):
                waiting.unregister(key.fileobj)
                key.fileobj.close()


def accept(listening: socket.socket, waiting: selectors.BaseSelector) -> None:
    try:
        client, _ = listening.accept()
    except BlockingIOError:  # the other process took it
        return
    waiting.register(client, selectors.EVENT_READ, bytearray())


def heard(client: socket.socket, come: bytearray, one) -> bool:
    """Take what has come, and answer once the request is whole; whether there may be more."""
    piece = client.recv(1 << 20)
    come += piece
    end = come.find(END_OF_HEAD)
    if end < 0:
        return bool(piece)
    head = bytes(come[:end]).lower()
    start = end + len(END_OF_HEAD)
    whole = start + int(head[head.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
    if len(come) >= whole:
        picture = come.index(END_OF_HEAD, start) + len(END_OF_HEAD)
        found = one(bytes(come[picture : come.rindex(b"\r\n--", 0, whole)]))
        labels = [{"index": index, "score": score} for index, score in found]
        del come[:whole]
        body = json.dumps({"labels": labels}).encode()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return bool(piece)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
        listening.setblocking(False)
        os.fork()
        serve(listening, Path(os.environ["BENCH_MODEL"]))
