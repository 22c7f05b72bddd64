"""Tell faces in front of the camera from those on paper or on a screen."""

from __future__ import annotations

from sensorium.schemas.check_live import CheckLiveRequest

Request = CheckLiveRequest
DEFAULT = "anti_spoof"
