"""Describe faces by numbers that can be compared."""

from __future__ import annotations

from sensorium.schemas.embed_faces import EmbedFacesRequest

Request = EmbedFacesRequest
DEFAULT = "dlib_faces"
