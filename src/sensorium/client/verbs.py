"""Every task as a method; `verbs.pyi` says which there are, for editors and type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensorium import verbs
from sensorium.discovery import TASKS, modules


class _Verbs:
    """Methods made on demand, for tasks of other packages too. A subclass says who answers, by `_answerer`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in modules(TASKS):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        vars(self)[name] = self._verb(name)
        return vars(self)[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *modules(TASKS)})

    def _verb(self, name: str) -> Callable[..., Any]:
        raise NotImplementedError


class Verbs(_Verbs):
    """Methods that wait for the answer."""

    def _verb(self, name: str) -> Callable[..., Any]:
        return verbs.verb(name, self._answerer)


class AsyncVerbs(_Verbs):
    """Methods to `await`, in any event loop."""

    def _verb(self, name: str) -> Callable[..., Any]:
        return verbs.async_verb(name, self._answerer)
