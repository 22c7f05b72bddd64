"""Name what a picture shows."""

from __future__ import annotations

from sensorium.schemas.classify import Classification, ClassifyRequest

Request = ClassifyRequest
DEFAULT = "efficientnet_lite0"


def tidy(request: ClassifyRequest, result: Classification) -> Classification:
    """Best first, and no more than were asked for, whatever the engine gave."""
    ordered = tuple(sorted(result.labels, key=lambda label: -label.score)[: request.top_k])
    return result if ordered == result.labels else result.model_copy(update={"labels": ordered})
