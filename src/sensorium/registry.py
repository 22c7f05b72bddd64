"""Finds tasks, engine kinds and models by name: in this package's folders, by entry points, in the models folder.

Names are found without importing anything; a module is imported when it is asked for. What is
broken is left out and told under `problems`, so that one bad card or plug-in spoils no other.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import math
import re
import tomllib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from sensorium import discovery
from sensorium.dependencies import install_command, is_installed
from sensorium.engine import Card, Host, Preparing
from sensorium.errors import (
    InvalidModel,
    InvalidRequest,
    MissingDependency,
    ModelNotInstalled,
    SensoriumError,
    UnknownModel,
    UnknownTask,
)
from sensorium.runtimes import weights
from sensorium.runtimes.provider import model_of
from sensorium.schemas.base import Request, Result, wrong_fields

LARGEST_CARD = 1_000_000
"""Bytes; a card has some hundred."""

TRIES = {"dev", "a", "alpha", "b", "beta", "c", "pre", "preview", "rc"}
"""Words in a version that come before its end, as in 2.0-rc1; others, as in 2.0-int8, come after."""


def _nothing(request: Request) -> Collection[str]:  # noqa: ARG001 - a task that needs no other
    return ()


@dataclass(frozen=True)
class Task:
    """A verb: what it takes, who answers by default, what is checked before and tidied after."""

    name: str
    request: type[Request]
    defaults: tuple[str, ...]
    """The models that are asked where nobody names one, best first; of several, those that are at hand."""
    check: Callable[[Any], None]
    tidy: Callable[[Any, Any], Any]
    run: Callable[..., Any] | None
    """Of a composed task, which calls others; None where a model answers."""
    about: str | None = None
    """Of a composed task whose request's `model` is not asked but spoken of: the task that such models do. `run` gets its
    card as well, or None where the model is not known here."""
    asks: str | None = None
    """Of a composed task, the one that it passes `model` on to; None: it takes no model."""
    needs: Callable[[Any], Collection[str]] = _nothing
    """Of a request, the tasks and parts without whose models it cannot be answered: where these are not here, it is refused at once."""
    around: Callable[[Any, Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]] | None = None
    """Of a task that a model answers, and others add to: `around(request, call, ask)`, where `ask(request)` is the model's answer,
    tidied."""

    @property
    def answer(self) -> type[Result]:
        return self.request.answer


@dataclass(frozen=True)
class Found:
    """A card in the models folder, as it and its files stand there."""

    path: Path
    name: str
    """The model that it is a card of; of one that cannot be read, what it was before, or what its place says."""
    stands: tuple[tuple[str, weights.Stand], ...]
    """How the card and each file that it names stand on the disk."""
    card: Card | None = None
    problem: SensoriumError | None = None
    """What is wrong with what stands there now. Together with a card: the card is of what stood there before."""
    passed_over: bool = False
    """Whether only those who name its version get it: it was tried and did not work, and an older one does."""


class Catalogue:
    """The models at one moment."""

    def __init__(self, found: Mapping[Path, Found], known: Iterable[Card], pinned: Collection[str]) -> None:
        self.found, self._known, self._pinned = found, tuple(known), [name.lower() for name in pinned]
        own = [one for one in found.values() if one.card]
        self._own = {one.card.id: one for one in reversed(own) if one.card}
        by_id: dict[str, Card] = {}
        for card in (*(one.card for one in own if one.card), *self._known):
            by_id.setdefault(card.id, card)
        self.cards = tuple(by_id.values())

    def changed(self, found: Mapping[Path, Found]) -> Catalogue:
        """The same with other cards in the models folder."""
        return Catalogue(found, self._known, self._pinned)

    def of(self, name: str, task: str | None = None) -> Card | None:
        """The model that a name, or name@version, stands for; capitals do not matter.

        Of several versions it is the pinned one, else the highest; those of the models folder go before known ones.
        """
        cards = [card for card in self.cards if task is None or card.does(task)]
        matching = [card for card in cards if name.lower() in _names(card)]
        return max(matching, key=self._rank, default=None)

    def place(self, card: Card) -> Found | None:
        """Where a model of the models folder stands."""
        return self._own.get(card.id) if card.folder is not None else None

    def owner(self, card: Card) -> str:
        """Whose model it is: its provider's name, or `sensorium` for what runs in this process."""
        if not (card.remote or "base_url" in card.quirks):
            return "sensorium"
        if "/" in card.name:
            return card.name.partition("/")[0]
        providers = (one for one in (*self._known, *self.cards) if one.quirks.get("any_model"))
        asked = next((one.name for one in providers if _place(one) == _place(card)), None)
        return asked or (card.kind if card.folder is None else card.name)

    def is_pinned(self, card: Card) -> bool:
        """Whether the settings name this very version."""
        return card.id.lower() in self._pinned

    def content(self, card: Card) -> str:
        """What tells a model from another of the same name and version: id and checksum of card and files."""
        place = self.place(card)
        told = f"{card.model_dump_json()} {place.stands if place else ()}"
        return f"{card.id}#{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def trouble(self, name: str) -> SensoriumError | None:
        """What is wrong with the card of a model of that name, or of its provider, that cannot be read."""
        plain = name.lower().partition("/")[0].partition("@")[0]
        return next((one.problem for one in self.found.values() if one.name == plain and not one.card), None)

    def _rank(self, card: Card) -> tuple[Any, ...]:
        place = self.place(card)
        pinned = -self._pinned.index(card.id.lower()) if self.is_pinned(card) else -math.inf
        return pinned, card.folder is not None, not (place and place.passed_over), version_order(card.version)


class Registry:
    """All that can be asked, and all that can answer.

    `pinned` are the models, as name@version, that are meant when their name stands alone.
    """

    def __init__(self, models_dir: Path | None = None, pinned: Collection[str] = ()) -> None:
        self.models_dir = models_dir
        self._tasks: dict[str, Task] = {}
        self._pinned = pinned
        self._broken_kinds: list[SensoriumError] = []

    def task(self, name: str) -> Task:
        """Raises UnknownTask, naming the near ones."""
        places = discovery.modules(discovery.TASKS)
        if name not in places:
            raise UnknownTask(f"There is no task {name!r}", fix=_near(name, places))
        return self._imported_task(name, places[name])

    def asked(self, name: str) -> Task:
        """As `task`, also a part: what only tasks ask for."""
        part = discovery.modules(discovery.PARTS).get(name)
        return self.task(name) if part is None else self._imported_task(name, part)

    def _imported_task(self, name: str, place: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = _as_task(name, importlib.import_module(place))
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
    def catalogue(self) -> Catalogue:
        """The models in force. Set it to change over to others, at once; what was handed out stays as it was."""
        known = [card for module in self.kinds.values() for card in self._known(module)]
        return Catalogue(self.look({}), known, self._pinned)

    @property
    def cards(self) -> tuple[Card, ...]:
        """Every model, those of the models folder first: they go before known ones of the same name."""
        return self.catalogue.cards

    @property
    def problems(self) -> list[SensoriumError]:
        """What is broken, and so left out."""
        wrong = [found.problem for found in self.catalogue.found.values() if found.problem]
        return [*self._broken_kinds, *wrong]

    def card(self, name: str, task: str) -> Card:
        """The model of that name, or name@version, that does the task; capitals do not matter.

        Raises UnknownModel, naming the near ones, and InvalidModel when the model's card is broken.
        """
        catalogue = self.catalogue
        card = catalogue.of(name, task) or _of_provider(catalogue, name, task)
        if card is not None and not card.quirks.get("any_model"):
            return card
        if card is not None:
            why, fix = "it is a provider, not a model", f"Name one of its models: `{card.name}/MODEL`"
            raise UnknownModel(f"{name!r} cannot answer", why=why, fix=fix)
        if (trouble := catalogue.trouble(name)) is not None:
            raise trouble
        if "/" in name:
            raise _unknown_provider(catalogue, name, task)
        names = {card.name: _asked_by(card) for card in catalogue.cards if card.does(task) and not _is_for_trials(card)}
        if catalogue.of(name) is not None:
            raise UnknownModel(
                f"Model {name!r} does not answer {task}", fix=f"Those that do: {', '.join(names.values())}"
            )
        raise UnknownModel(f"There is no model {name!r} for {task}", fix=_near(name, names, names.__getitem__))

    def look(self, before: Mapping[Path, Found]) -> dict[Path, Found]:
        """The cards in the models folder now; those that stand as they did before are the same objects. Blocks."""
        if self.models_dir is None or not self.models_dir.is_dir():
            return {}
        paths = sorted(self.models_dir.rglob("*.toml"))
        cards = {path: _found(path, self.models_dir, before.get(path), self.settled) for path in paths}
        return {**cards, **self._lying_alone(self.models_dir, before)}

    def _lying_alone(self, models_dir: Path, before: Mapping[Path, Found]) -> dict[Path, Found]:
        """Weights of known models that need no card beside them."""
        cards = (card for module in self.kinds.values() for card in module.CARDS)
        alone = {models_dir / card.weights.file: card for card in cards if card.weights and card.weights.alone}
        there = {path: card for path, card in alone.items() if path.is_file()}
        return {path: _found_alone(path, card, before.get(path)) for path, card in there.items()}

    def own(self, task: Task) -> tuple[str, ...]:
        """The models that are asked for a task by default, best first: those at hand, else the last of all."""
        at_hand = tuple(name for name in task.defaults if self._is_at_hand(name, task))
        return at_hand or task.defaults[-1:]

    def settled(self, card: Card) -> Card:
        """The card as it holds in this environment, where its kind has something to say about that. May raise InvalidModel."""
        kind = self.kinds.get(card.kind)
        made: Card = kind.settled(card) if kind is not None and hasattr(kind, "settled") else card
        return made

    def engine(self, card: Card, host: Host) -> Any:
        """A new engine for the model, not loaded yet.

        Raises MissingDependency when a package that the kind stands on is not installed.
        """
        return self._usable_kind(card).Engine(card, host)

    def require(self, card: Card) -> None:
        """Raises MissingDependency or ModelNotInstalled, naming what is missing, when the model cannot be loaded here."""
        self._usable_kind(card)
        lies_alone = card.weights is not None and card.weights.alone and card.folder is None
        weights.require(card.altered(folder=self.models_dir) if lies_alone else card)

    def _usable_kind(self, card: Card) -> ModuleType:
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
        return kind

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
        if hasattr(kind, "lacking") and (lacking := kind.lacking(card)):
            return str(lacking)
        if card.weights and not weights.is_installed(card):
            return f"not installed: {card.install}" if card.install else "not installed"
        return "ready"

    def _is_at_hand(self, name: str, task: Task) -> bool:
        with suppress(SensoriumError):
            return self.state(self.card(name, task.name)) == "ready"
        return False

    def _known(self, kind: ModuleType) -> Iterator[Card]:
        """The cards beside a kind; those that the environment spoils are told under `problems`."""
        for card in kind.CARDS:
            try:
                yield self.settled(card)
            except SensoriumError as error:
                self._broken_kinds.append(error)

    def _imported(self, name: str, place: str) -> ModuleType | None:
        try:
            return importlib.import_module(place)
        except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way
            self._broken_kinds.append(
                InvalidModel(f"Engine kind {name!r} cannot be imported", why=f"{type(error).__name__}: {error}")
            )
            return None


def version_order(version: str) -> tuple[Any, ...]:
    """What versions are compared by: numbers as numbers, and words of a first try, such as rc, before its end."""
    words = re.findall(r"[0-9]+|[a-z]+", re.sub(r"^v(?=[0-9])", "", version.lower()))
    parts = [(3, int(word), "") if word.isdigit() else (0 if word in TRIES else 2, 0, word) for word in words]
    return *parts, (1, 0, ""), version


def read_card(path: Path, called: Path | None = None) -> Card:
    """The card in a TOML file of the models folder; errors name it by its path, unless it is `called` otherwise.

    Raises InvalidModel, saying what is wrong with it.
    """
    called = called or path
    try:
        card = Card.model_validate({**tomllib.loads(_text_of(path)), "folder": path.parent})
    except ValidationError as error:
        raise InvalidModel(f"The card {called} is wrong", why=wrong_fields(error, Card)) from error
    except OSError as error:
        raise InvalidModel(f"The card {called} cannot be read", why=error.strerror or "it is gone") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"The card {called} cannot be read", why=str(error)) from error
    if "/" in card.name:  # files are named after it
        raise InvalidModel(f"The card {called} is wrong", why="`name`: there may be no slash in it")
    return card


def _found(path: Path, models_dir: Path, before: Found | None, settled: Callable[[Card], Card]) -> Found:
    """The card at a path; the very one of before when neither it nor its files have changed."""
    if before is not None and untouched(before):
        return before
    stands = _stands(path, [])
    try:
        card = settled(read_card(path, path.relative_to(models_dir)))  # clients hear of it, and need not know where
    except SensoriumError as error:
        return Found(path, _claimed_name(path, before), stands, problem=error)
    # The card as it stood before it was read: what is written meanwhile is seen the next time.
    return Found(path, card.name, (*stands, *_stands(path, weights.files(card))[1:]), card)


def _found_alone(path: Path, card: Card, before: Found | None) -> Found:
    if before is not None and untouched(before):
        return before
    stands = _stands(path, [name for name in weights.files(card) if name != path.name])
    card = card.altered(folder=path.parent)
    try:
        weights.require(card)
    except InvalidModel as error:  # such as a link that leads elsewhere, which would be passed over without a word
        return Found(path, card.name, stands, problem=error)
    except ModelNotInstalled:  # another of its files is yet to come
        pass
    return Found(path, card.name, stands, card)


def untouched(found: Found) -> bool:
    """Whether the card and its files still stand as they did. Blocks."""
    return _stands(found.path, [name for name, _ in found.stands[1:]]) == found.stands


def _stands(path: Path, names: Iterable[str]) -> tuple[tuple[str, weights.Stand], ...]:
    return tuple((name, weights.stand(path.parent / name)) for name in (path.name, *names))


def _claimed_name(path: Path, before: Found | None) -> str:
    """The name of the model whose card cannot be used."""
    with suppress(OSError, ValueError, RecursionError):  # TOMLDecodeError is a ValueError
        told = tomllib.loads(_text_of(path)).get("name")
        if isinstance(told, str):
            return told.lower()
    if before is not None:
        return before.name
    return (path.parent.name if path.stem == "card" else path.stem).lower()


def _text_of(path: Path) -> str:
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("it is no regular file")
    if path.stat().st_size > LARGEST_CARD:
        raise ValueError(f"it has over {LARGEST_CARD:,} bytes")
    return path.read_text(encoding="utf-8")


def _as_task(name: str, module: ModuleType) -> Task:
    default = getattr(module, "DEFAULT", ())
    return Task(
        name=name,
        request=module.Request,
        defaults=(default,) if isinstance(default, str) else default,
        check=getattr(module, "check", _accept),
        tidy=getattr(module, "tidy", _as_it_is),
        run=getattr(module, "run", None),
        about=getattr(module, "ABOUT", None),
        asks=getattr(module, "ASKS", None),
        needs=getattr(module, "needs", _nothing),
        around=getattr(module, "around", None),
    )


def _accept(request: Request) -> None:  # noqa: ARG001 - a task without checks of its own
    return None


def _as_it_is(request: Request, result: Result) -> Result:  # noqa: ARG001 - a task without tidying of its own
    return result


def _of_provider(catalogue: Catalogue, name: str, task: str) -> Card | None:
    """The card of provider/model, where there is such a provider and that can be a model's name."""
    provider = _provider(catalogue, name, task)
    model = name.partition("/")[2].removesuffix(f"@{provider.version}") if provider else ""
    try:
        return model_of(provider, model) if provider else None
    except ValidationError as error:
        why = "letters, digits and `_.:-`, with slashes between, can stand after the provider"
        raise UnknownModel(f"{model[:60]!r} is no model's name", why=why) from error


def _provider(catalogue: Catalogue, name: str, task: str) -> Card | None:
    card = catalogue.of(name.partition("/")[0], task) if "/" in name else None
    return card if card and card.quirks.get("any_model") else None


def _unknown_provider(catalogue: Catalogue, name: str, task: str) -> UnknownModel:
    providers = [card.name for card in catalogue.cards if card.does(task) and card.quirks.get("any_model")]
    provider, _, model = name[:200].partition("/")
    why = f"there is no provider {provider[:60]!r} for {task}"
    near = _near(provider, providers, lambda one: f"{one}/{model or 'MODEL'}")
    return UnknownModel(f"There is no model {name[:200]!r}", why=why, fix=near)


def _place(card: Card) -> tuple[str, Any]:
    """Where its provider is, and by which wire format."""
    return card.kind, card.quirks.get("base_url")


def _missing(kind: ModuleType) -> Iterator[str]:
    return (module for module in getattr(kind, "REQUIRES", ()) if not is_installed(module))


def _names(card: Card) -> set[str]:
    plain = {card.name, *card.aliases}
    return {name.lower() for name in plain | {f"{name}@{card.version}" for name in plain}}


def _is_for_trials(card: Card) -> bool:
    """Whether it is the known model that answers everything, and looks at nothing."""
    return card.folder is None and "*" in card.tasks


def _asked_by(card: Card) -> str:
    """What to write to ask it: a provider is no model itself."""
    return f"{card.name}/MODEL" if card.quirks.get("any_model") else card.name


def _near(name: str, known: Collection[str], told: Callable[[str], str] = str) -> str:
    """The names that are most like it, else all; `told` is what stands for a name in the sentence."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(told, near))}?"
    return f"There are: {', '.join(map(told, sorted(known)))}"
