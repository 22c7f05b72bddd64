"""Whether the server lives, and whether it can answer."""

from __future__ import annotations

from typing import Any

from sensorium.errors import SensoriumError
from sensorium.registry import Task
from sensorium.service import Sensorium


def readiness(service: Sensorium) -> tuple[bool, dict[str, Any]]:
    """Whether any task can be answered and all is loaded that should be first, and the state of each task's preferred
    models."""
    tasks = {task.name: _models(service, task) for task in service.registry.tasks}
    usable = service.preloaded and any(
        state in ("loaded", "ready") for found in tasks.values() for state in found.values()
    )
    return usable, {"status": "ready" if usable else "not ready", "tasks": tasks}


def _models(service: Sensorium, task: Task) -> dict[str, str]:
    if task.run is not None:
        return {}
    named = service.settings.models.get(task.name) or service.registry.own(task)
    return dict(_state(service, task, name) for name in named)


def _state(service: Sensorium, task: Task, name: str) -> tuple[str, str]:
    try:
        card = service.registry.card(name, task.name)
    except SensoriumError as error:
        return name, str(error)
    return card.id, "loaded" if service.models.ready(card) else service.registry.state(card)
