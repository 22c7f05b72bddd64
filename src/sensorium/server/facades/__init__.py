"""Translations between wire formats and our schemas: pure functions that never see the service.

A facade module offers a `Facade`: where it answers, how a message becomes a plan of requests,
how their outcomes become a reply, and how an error does. `server/app.py` finds them here, and by
entry points of the group `sensorium.server.facades`.
"""
