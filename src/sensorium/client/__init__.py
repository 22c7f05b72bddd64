"""Asks a sensorium server elsewhere, with the verbs that `import sensorium` has.

    with sensorium.connect("http://host:8000", key) as server:
        result = server.classify("cat.jpg", top_k=3)
        results = server.read(["a.png", "b.png"])
        for event in server.stream.ask("cat.jpg", "What is this?"):
            ...

`sensorium.aio.connect` is the same for `await`.
"""

from sensorium.client.faces import AsyncClient, Client
from sensorium.client.remote import Remote
from sensorium.client.server import Server

connect = Client

__all__ = ["AsyncClient", "Client", "Remote", "Server", "connect"]
