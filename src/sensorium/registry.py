"""Finds tasks, engine kinds and models by name: in this package's folders, by entry points, in the models folder.

Names are found without importing anything; a module is imported when it is asked for. What is
broken is left out and told under `problems`, so that one bad card or plug-in spoils no other.
"""

from __future__ import annotations

import difflib
import importlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from sensorium import discovery
from sensorium.dependencies import install_command, is_installed
from sensorium.engine import Card, Host, Preparing
from sensorium.errors import InvalidModel, InvalidRequest, MissingDependency, SensoriumError, UnknownModel, UnknownTask
from sensorium.runtimes import weights
from sensorium.schemas.base import Request, Result, wrong_fields

LARGEST_CARD = 1_000_000
"""Bytes; a card has some hundred."""


@dataclass(frozen=True)
class Task:
    """A verb: what it takes, who answers by default, what is checked before and tidied after."""

    name: str
    request: type[Request]
    default: str | None
    check: Callable[[Any], None]
    tidy: Callable[[Any, Any], Any]
    run: Callable[[Any, Any], Any] | None
    """Of a composed task, which calls others; None where a model answers."""

    @property
    def answer(self) -> type[Result]:
        return self.request.answer


class Registry:
    """All that can be asked, and all that can answer."""

    def __init__(self, models_dir: Path | None = None) -> None:
        self.models_dir = models_dir
        self.problems: list[SensoriumError] = []
        self._tasks: dict[str, Task] = {}

    def task(self, name: str) -> Task:
        """Raises UnknownTask, naming the near ones."""
        places = discovery.modules(discovery.TASKS)
        if name not in places:
            raise UnknownTask(f"There is no task {name!r}", fix=_near(name, places))
        if name not in self._tasks:
            self._tasks[name] = _as_task(name, importlib.import_module(places[name]))
        return self._tasks[name]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, by name."""
        return tuple(self.task(name) for name in sorted(discovery.modules(discovery.TASKS)))

    @cached_property
    def kinds(self) -> dict[str, ModuleType]:
        """The modules of all engine kinds. They are light: what is heavy is imported when an engine loads."""
        modules: dict[str, ModuleType] = {}
        for name, place in discovery.modules(discovery.ENGINES).items():
            module = self._imported(name, place)
            if module is not None and hasattr(module, "CARDS") and hasattr(module, "Engine"):
                modules[name] = module
        return modules

    @cached_property
    def cards(self) -> tuple[Card, ...]:
        """Every model, those of the models folder first: they go before known ones of the same name."""
        known = [card for module in self.kinds.values() for card in module.CARDS]
        by_id: dict[str, Card] = {}
        for card in [*self._own_cards(), *known]:
            by_id.setdefault(card.id, card)
        return tuple(by_id.values())

    def card(self, name: str, task: str) -> Card:
        """The model of that name, or name@version, that does the task; capitals do not matter.

        Raises UnknownModel, naming the near ones.
        """
        able = [card for card in self.cards if card.does(task)]
        for card in able:
            if name.lower() in _names(card):
                return card
        names = [card.name for card in able]
        if any(name.lower() in _names(card) for card in self.cards):
            raise UnknownModel(f"Model {name!r} does not {task}", fix=f"Those that do: {', '.join(names)}")
        raise UnknownModel(f"There is no model {name!r} for {task}", fix=_near(name, names))

    def engine(self, card: Card, host: Host) -> Any:
        """A new engine for the model, not loaded yet.

        Raises MissingDependency when a package that the kind stands on is not installed.
        """
        kind = self.kinds.get(card.kind)
        if kind is None:
            raise InvalidModel(
                f"Model {card.id} cannot be used",
                why=f"there is no engine kind {card.kind!r}",
                fix=_near(card.kind, self.kinds),
            )
        for module in _missing(kind):
            raise MissingDependency(
                f"Cannot use model {card.id}", why=f"{module} is not installed", fix=f"Run `{install_command(module)}`"
            )
        return kind.Engine(card, host)

    def preparation(self, card: Card) -> Preparing:
        """How pictures are fed to the model's graph.

        Raises InvalidRequest when its kind does not offer that.
        """
        kind = self.kinds.get(card.kind)
        if kind is None or not hasattr(kind, "preparation"):
            able = ", ".join(name for name, module in self.kinds.items() if hasattr(module, "preparation"))
            raise InvalidRequest(
                f"Model {card.id} cannot be calibrated on pictures",
                why=f"kind {card.kind!r} does not say how it feeds them; these do: {able}",
            )
        prepared: Preparing = kind.preparation(card)
        return prepared

    def state(self, card: Card) -> str:
        """`ready`, or what is missing and the command that brings it."""
        kind = self.kinds.get(card.kind)
        if kind is None:
            return f"unusable: there is no engine kind {card.kind!r}"
        for module in _missing(kind):
            return f"missing {module}: {install_command(module)}"
        if card.weights and not weights.is_installed(card):
            return f"not installed: {card.install}" if card.install else "not installed"
        return "ready"

    def _imported(self, name: str, place: str) -> ModuleType | None:
        try:
            return importlib.import_module(place)
        except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way
            self.problems.append(
                InvalidModel(f"Engine kind {name!r} cannot be imported", why=f"{type(error).__name__}: {error}")
            )
            return None

    def _own_cards(self) -> Iterator[Card]:
        if self.models_dir is None or not self.models_dir.is_dir():
            return
        for path in sorted(self.models_dir.rglob("*.toml")):
            try:
                yield read_card(path)
            except SensoriumError as error:
                self.problems.append(error)


def read_card(path: Path) -> Card:
    """The card in a TOML file of the models folder.

    Raises InvalidModel, saying what is wrong with it.
    """
    try:
        card = Card.model_validate({**tomllib.loads(_text_of(path)), "folder": path.parent})
    except ValidationError as error:
        raise InvalidModel(f"The card {path} is wrong", why=wrong_fields(error, Card)) from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidModel(f"The card {path} cannot be read", why=str(error)) from error
    if card.weights and card.weights.package is None and card.weights.sha256 is None:
        raise InvalidModel(
            f"The card {path} is wrong", why="`weights.sha256` is missing", fix="Write the file's checksum there"
        )
    return card


def _text_of(path: Path) -> str:
    if not path.is_file():  # opening a pipe would wait for ever
        raise InvalidModel(f"The card {path} cannot be read", why="it is no regular file")
    if path.stat().st_size > LARGEST_CARD:
        raise InvalidModel(f"The card {path} cannot be read", why=f"it has over {LARGEST_CARD:,} bytes")
    return path.read_text(encoding="utf-8")


def _as_task(name: str, module: ModuleType) -> Task:
    return Task(
        name=name,
        request=module.Request,
        default=getattr(module, "DEFAULT", None),
        check=getattr(module, "check", _accept),
        tidy=getattr(module, "tidy", _as_it_is),
        run=getattr(module, "run", None),
    )


def _accept(request: Request) -> None:  # noqa: ARG001 - a task without checks of its own
    return None


def _as_it_is(request: Request, result: Result) -> Result:  # noqa: ARG001 - a task without tidying of its own
    return result


def _missing(kind: ModuleType) -> Iterator[str]:
    return (module for module in getattr(kind, "REQUIRES", ()) if not is_installed(module))


def _names(card: Card) -> set[str]:
    plain = {card.name, *card.aliases}
    return {name.lower() for name in plain | {f"{name}@{card.version}" for name in plain}}


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(known))}"
