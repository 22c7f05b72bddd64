"""Measure a picture: colours, brightness, contrast, blur, size and shape."""

from __future__ import annotations

from sensorium.schemas.describe_pixels import DescribePixelsRequest

Request = DescribePixelsRequest
DEFAULT = "pixel_statistics"
