"""Which models are in memory, and how one is changed for another while requests go on.

A model is loaded beside the one that answers, tried on a picture, and only then takes its place, at once; what is under
way on the old one finishes there, and then its memory goes back. One that does not load or answer changes nothing.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from sensorium.engine import Call, Card, Engine, Host
from sensorium.errors import DeadlineExceeded, InvalidModel, ReloadFailed, SensoriumError, ServiceClosed, UnknownModel
from sensorium.layers.loaded import Loaded
from sensorium.media.source import Source
from sensorium.registry import Catalogue, Found, Registry, untouched
from sensorium.runtimes import weights
from sensorium.schemas.base import Request, Result
from sensorium.telemetry import TELEMETRY

AnyEngine = Engine[Request, Result]

TRIAL_SECONDS = 60.0
"""How long a new model may take for its first two answers."""

PAUSE, PATIENCE = 0.3, 10.0
"""A file that was written within the last PAUSE seconds is looked at again after as many, for PATIENCE at most."""

MOST_PASSING = 256
"""Models of providers that no card describes: whoever may ask can make up their names, and each takes some kilobytes."""

log = logging.getLogger("sensorium.models")


@dataclass(frozen=True)
class Change:
    """What became of a reload."""

    model: str
    """What answers now, as model@version."""
    before: str | None
    """What answered before; None when nothing of that name was there."""
    seconds: float


@dataclass(frozen=True)
class State:
    """One model, as an operator wants to know it."""

    card: Card | None
    name: str
    state: str
    """`not installed`, `ready` (loads at its first request), `loading`, `loaded`, or `failed`."""
    why: str | None
    """What is wrong, in words; of a loaded model, what is wrong with the files that should have replaced it."""
    current: bool
    """Whether this version answers when the name stands alone."""
    pinned: bool
    bytes: int | None
    """Size of the weights' file."""


class Models:
    """The models of one service. Belongs to its event loop.

    `wrapped` puts a model behind its layers, told what to remember its answers by. `changed` is called when other
    models answer than before.
    """

    def __init__(
        self,
        registry: Registry,
        host: Host,
        wrapped: Callable[[Loaded, str], AnyEngine],
        *,
        changed: Callable[[], None],
        idle_seconds: float = 0.0,
    ) -> None:
        self.registry = registry
        self.loaded: dict[str, Loaded] = {}
        """By model@version; in memory or not."""
        self.changed = changed
        self._host, self._wrapped, self._idle_seconds = host, wrapped, idle_seconds
        self._engines: dict[str, AnyEngine] = {}
        self._looked: Mapping[Path, Found] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._retiring: dict[Loaded, asyncio.Task[None]] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._closed = False

    def engine(self, card: Card) -> AnyEngine:
        """The model behind its layers, loaded when it is first asked."""
        held = self.loaded.get(card.id)
        if held is None or (_is_passing(card) and held.card != card):
            self._make_room(card)
            self.put(self.new(card))
        return self._engines[card.id]

    def _make_room(self, card: Card) -> None:
        """Of the models that providers are asked for by any name, the oldest goes when there are too many."""
        passing = [loaded for loaded in self.loaded.values() if _is_passing(loaded.card)]
        if _is_passing(card) and len(passing) >= MOST_PASSING:
            self.drop(passing[0], None)
            self.changed()

    def ready(self, card: Card) -> bool:
        """Whether the model is in memory."""
        return card.id in self.loaded and self.loaded[card.id].ready

    async def preload(self, names: Iterable[str]) -> None:
        """Load and try these models; what is wrong with one is told in the log and in its state."""
        for name in names:
            try:
                card = self._known(name)
                self.engine(card)
                await self.try_out(self.loaded[card.id])
            except SensoriumError as error:
                log.error("Model %s is not preloaded: %s", name, error)  # noqa: TRY400 - ours say all there is to say
            else:
                log.info("Model %s is loaded", card.id)

    async def watch(self, seconds: float) -> None:
        """Look into the models folder every so often, for ever, and change over to what is new there.

        What differs from one look to the next is still being written, and is waited for.
        """
        before = await asyncio.to_thread(self._last_look)
        while True:
            await asyncio.sleep(seconds)
            try:
                now = await asyncio.to_thread(self.registry.look, before)
                if not _changed_names(before, now):
                    await self._follow(now)
                before = now
            except Exception:  # one look that fails is no reason never to look again
                log.exception("Cannot look into the models folder")

    async def reload(self, name: str) -> Change:
        """Change over to what the models folder holds now under a name, or name@version; ends once that answers.

        Raises UnknownModel, and ReloadFailed when it cannot be used: then all is as before.
        """
        start = time.perf_counter()
        async with self._one_at_a_time:
            old = self.registry.catalogue
            plain, looked = await self._settled(name)
            seen = old.changed(looked)
            wanted, before = seen.of(name), old.of(plain)
            refused = await self._change(plain, looked, forced=wanted)
            meant = wanted or old.of(name)
            if "@" in name:
                refused = {model: error for model, error in refused.items() if meant and model == meant.id}
            trouble = next(iter(refused.values()), None if wanted else seen.trouble(name))
            if trouble is not None:
                goes_on = f"{before.id} goes on answering" if before and self.ready(before) else ""
                raise ReloadFailed(
                    f"Model {name} was not taken", why=str(trouble).rstrip("."), fix=goes_on
                ) from trouble
        return Change(self._known(name).id, before.id if before else None, time.perf_counter() - start)

    def states(self) -> list[State]:
        """Every model and version, and what is wrong with broken cards. Looks at files: call it in a thread."""
        catalogue = self.registry.catalogue
        broken = [
            State(None, found.name, "failed", str(found.problem), current=False, pinned=False, bytes=None)
            for found in catalogue.found.values()
            if found.card is None
        ]
        return [*(self._state(catalogue, card) for card in catalogue.cards), *broken]

    async def close(self) -> None:
        """Give all models back. What still runs ends with ServiceClosed."""
        self._closed = True
        for task in (*self._retiring.values(), *self._unloading):
            task.cancel()
        await asyncio.gather(*(loaded.close() for loaded in (*self.loaded.values(), *self._retiring)))

    # For a changeover

    def check_open(self) -> None:
        """Raises ServiceClosed when nothing may be put into memory any more."""
        if self._closed:
            raise ServiceClosed("This Sensorium is closed")

    def new(self, card: Card) -> Loaded:
        """The model, not in memory yet, and not in force."""
        return Loaded(partial(self.registry.engine, card, self._host), card, self._idle_seconds)

    def put(self, loaded: Loaded) -> None:
        """From now on this answers for its name and version; what did before finishes what it has and goes."""
        card, before = loaded.card, self.loaded.get(loaded.card.id)
        self.loaded[card.id] = loaded
        self._engines[card.id] = self._wrapped(loaded, self.registry.catalogue.content(card))
        if before is not None:
            self._retire(before, loaded)

    def drop(self, loaded: Loaded, successor: Loaded | None) -> None:
        """The model is no more."""
        del self._engines[loaded.card.id], self.loaded[loaded.card.id]
        self._retire(loaded, successor)

    def unload(self, loaded: Loaded) -> None:
        """Give its memory back once nothing is under way on it."""
        task = asyncio.create_task(loaded.unload())
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def try_out(self, loaded: Loaded) -> None:
        """Load a model and have it answer twice, so that it works, and is warm. Raises what is wrong with it."""
        await loaded.load()
        request = trial(self.registry, loaded.card)
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                for _ in range(2 if request else 0):
                    await loaded.run(request, Call())  # type: ignore[arg-type] # none, no round
        except TimeoutError as error:
            raise DeadlineExceeded(f"Model {loaded.card.id} gave no answer within {TRIAL_SECONDS:g} s") from error

    def _retire(self, loaded: Loaded, successor: Loaded | None) -> None:
        loaded.successor = successor
        task = self._retiring[loaded] = asyncio.create_task(loaded.retire())
        task.add_done_callback(lambda _: self._retiring.pop(loaded, None))

    async def _follow(self, now: Mapping[Path, Found]) -> None:
        """Take what has changed since the last time, if it still is so."""
        async with self._one_at_a_time:
            names = _changed_names(self._last_look(), now)
            if names and _changed_names(now, await asyncio.to_thread(self.registry.look, now)):
                return
            for name in sorted(names):
                await self._change(name, now)

    async def _change(
        self, name: str, looked: Mapping[Path, Found], forced: Card | None = None
    ) -> dict[str, SensoriumError]:
        """What was refused, by model@version."""
        if self._retiring:  # at most two of a model in memory
            await asyncio.wait(list(self._retiring.values()), timeout=TRIAL_SECONDS)
        change = _Changeover(self, name, looked, forced)
        await change.run()
        others = {path: found for path, found in self._last_look().items() if found.name != name}
        self._looked = {**others, **{path: found for path, found in looked.items() if found.name == name}}
        return change.refused

    async def _settled(self, name: str) -> tuple[str, Mapping[Path, Found]]:
        """The model's own name, and the folder once none of its files is being written any more."""
        looked = await asyncio.to_thread(self.registry.look, self._last_look())
        end = time.monotonic() + PATIENCE
        while True:
            model = self.registry.catalogue.changed(looked).of(name) or self.registry.catalogue.of(name)
            plain = model.name if model else name.lower().partition("@")[0]
            if not _fresh(looked, plain):
                return plain, looked
            await asyncio.sleep(PAUSE)
            again = await asyncio.to_thread(self.registry.look, looked)
            if plain not in _changed_names(looked, again):
                return plain, again
            if time.monotonic() > end:
                raise ReloadFailed(f"Model {name} was not taken", why="its files are still being written")
            looked = again

    def _last_look(self) -> Mapping[Path, Found]:
        """The folder as it was when models were last changed for what it holds."""
        return self.registry.catalogue.found if self._looked is None else self._looked

    def _known(self, name: str) -> Card:
        catalogue = self.registry.catalogue
        card = catalogue.of(name)
        if card is None:
            raise catalogue.trouble(name) or UnknownModel(
                f"There is no model {name[:100]!r}", fix="`GET /v1/models` and `sensorium engines` list them"
            )
        return card

    def _state(self, catalogue: Catalogue, card: Card) -> State:
        state, why = self._condition(catalogue, card)
        return State(
            card,
            card.name,
            state,
            why,
            current=catalogue.of(card.name) is card,
            pinned=catalogue.is_pinned(card),
            bytes=_size(card),
        )

    def _condition(self, catalogue: Catalogue, card: Card) -> tuple[str, str | None]:
        loaded, place = self.loaded.get(card.id), catalogue.place(card)
        wrong = place.problem if place and place.problem else loaded.failure if loaded else None
        why = str(wrong) if wrong else None
        if loaded is not None and (loaded.ready or loaded.loading):
            return "loaded" if loaded.ready else "loading", why
        at_hand = self.registry.state(card)
        if at_hand.startswith(("not installed", "missing")):
            return "not installed", why or at_hand
        return ("ready", None) if at_hand == "ready" and not why else ("failed", why or at_hand)


def _is_passing(card: Card) -> bool:
    """Whether a card was made for a name, from its provider's."""
    return "/" in card.name


class _Changeover:
    """From one catalogue to the next, as far as it concerns the models of one name."""

    def __init__(self, models: Models, name: str, looked: Mapping[Path, Found], forced: Card | None) -> None:
        self.refused: dict[str, SensoriumError] = {}
        """What was tried and does not work, or has a broken card, by model@version."""
        self._models, self._name, self._forced = models, name, forced
        self._old = models.registry.catalogue
        self._best_before = self._old.of(name)
        self._others = {path: found for path, found in self._old.found.items() if found.name != name}
        self._kept: set[str] = set()
        """What only memory holds, or what the folder would not give again."""
        self._own = {path: self._readable(found) for path, found in looked.items() if found.name == name}
        self._tried: dict[str, Loaded] = {}
        self._in_memory = any(loaded.ready or loaded.loading for loaded in self._of_this_name())

    @property
    def new(self) -> Catalogue:
        return self._old.changed(dict(sorted({**self._others, **self._own}.items())))

    async def run(self) -> None:
        """Try what should answer from now on, and let it; what does not work is left out."""
        try:
            while (card := self._untried(self.new)) is not None:
                await self._try(card)
            self._models.check_open()
        except BaseException:
            await asyncio.gather(*(loaded.close() for loaded in self._tried.values()))
            raise
        self._take_over()

    def _of_this_name(self) -> list[Loaded]:
        return [loaded for loaded in self._models.loaded.values() if loaded.card.name == self._name]

    def _readable(self, found: Found) -> Found:
        """A card that can be read: in place of a broken one, what stood there before."""
        before = self._old.found.get(found.path)
        if found.card is None and found.problem and before and before.card and before.name == found.name:
            self.refused[before.card.id] = found.problem
            log.warning("%s Model %s stays as it was", found.problem, before.card.id)
            self._kept.add(before.card.id)
            return replace(before, problem=found.problem)
        return found

    def _untried(self, new: Catalogue) -> Card | None:
        """A model that must be seen to work before it may answer."""
        wanted = [self._forced] if self._forced else []
        best, before = new.of(self._name), self._best_before
        if best and before and best.id != before.id and self._usable(before):
            wanted.append(best)
        in_memory = {loaded.card.id for loaded in self._of_this_name() if loaded.ready}
        wanted += [card for card in new.cards if card.id in in_memory and self._is_other(new, card)]
        done = {*self._tried, *self.refused}
        return next((card for card in wanted if card.id not in done), None)

    def _is_other(self, new: Catalogue, card: Card) -> bool:
        """Whether it is not what answers by that name and version now."""
        return self._old.content(self._models.loaded[card.id].card) != new.content(card)

    def _usable(self, card: Card) -> bool:
        return self._models.ready(card) or self._models.registry.state(card) == "ready"

    async def _try(self, card: Card) -> None:
        loaded = self._models.new(card)
        place = self.new.place(card)
        try:
            await self._models.try_out(loaded)
            await asyncio.to_thread(_still_there, place)
        except SensoriumError as error:
            await loaded.close()
            self._refuse(card, place, error)
        except BaseException:
            await loaded.close()
            raise
        else:
            self._tried[card.id] = loaded

    def _refuse(self, card: Card, place: Found | None, error: SensoriumError) -> None:
        self.refused[card.id] = error
        TELEMETRY.model_changes[card.id, "refused"].add()
        log.error("Model %s was not taken: %s", card.id, error)
        if place is None:
            return
        self._own[place.path] = replace(place, problem=error, passed_over=True)
        if self._models.ready(card):
            self._own[place.path] = replace(place, card=None, problem=error)
            self._put_back(card, error)
        elif self._best_before and self._best_before.id not in {known.id for known in self.new.cards}:
            self._put_back(self._best_before, error)

    def _put_back(self, card: Card, error: SensoriumError) -> None:
        """Leave in force what is in memory, though the folder does not hold it any more."""
        loaded = self._models.loaded.get(card.id)
        place = self._old.place(loaded.card) if loaded and loaded.ready else None
        if place is not None:
            self._own[place.path] = replace(place, problem=error)
            self._kept.add(card.id)

    def _take_over(self) -> None:
        """All at once: nothing is awaited here."""
        models, new = self._models, self.new
        cards = {card.id: card for card in new.cards}
        replaced = {loaded.card.id for loaded in self._of_this_name() if self._is_stale(new, cards, loaded)}
        models.registry.catalogue = new
        for name in replaced - self._tried.keys():
            models.put(models.new(cards[name]))
        for loaded in self._tried.values():
            models.put(loaded)
            TELEMETRY.model_changes[loaded.card.id, "taken"].add()
            log.info("Model %s was taken", loaded.card.id)
            if not (self._in_memory or self._forced):
                models.unload(loaded)
        best = new.of(self._name)
        if best is not None:
            models.engine(best)
        successor = models.loaded[best.id] if best else None
        for loaded in self._of_this_name():
            if loaded.card.id not in cards:
                models.drop(loaded, successor)
            loaded.keep = loaded.card.id in self._kept
        self._supersede(new, successor)
        models.changed()

    def _is_stale(self, new: Catalogue, cards: Mapping[str, Card], loaded: Loaded) -> bool:
        return loaded.card.id in cards and self._is_other(new, cards[loaded.card.id])

    def _supersede(self, new: Catalogue, successor: Loaded | None) -> None:
        """The older version need not stay in memory; whoever names it gets it all the same."""
        if successor is not None:
            successor.successor = None
        before = self._models.loaded.get(self._best_before.id) if self._best_before else None
        if before is not None and before is not successor and not new.is_pinned(before.card):
            before.successor = successor
            self._models.unload(before)


def trial(registry: Registry, card: Card) -> Request | None:
    """A request about a made-up picture that the model should answer; None when it can do no task that takes one.

    Remote models are not tried: each answer costs money.
    """
    if card.remote:
        return None
    for name in card.tasks:
        try:
            request = registry.asked(name).request
            return request.model_validate({field: _picture() for field in request.source_fields()})
        except (SensoriumError, ValidationError):  # `*`, a task that is not installed, or one that must be told more
            continue
    return None


def _picture() -> Source:
    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").save(out, "PNG")
    return Source.of(out.getvalue())


def _changed_names(before: Mapping[Path, Found], now: Mapping[Path, Found]) -> set[str]:
    """The models whose cards or files are not the same at two looks."""
    changed = {
        path
        for path in {*before, *now}
        if path not in before or path not in now or before[path].stands != now[path].stands
    }
    return {look[path].name for look in (before, now) for path in changed if path in look}


def _fresh(looked: Mapping[Path, Found], name: str) -> bool:
    """Whether a file of the model was written a moment ago."""
    stands = [stand for found in looked.values() if found.name == name for _, stand in found.stands if stand]
    return any(stand[1] / 1e9 > time.time() - PAUSE for stand in stands)


def _still_there(place: Found | None) -> None:
    if place and not untouched(place):
        raise InvalidModel(f"Model {place.name} cannot be used yet", why="its files changed while it was loaded")


def _size(card: Card) -> int | None:
    try:
        return weights.locate(card).stat().st_size if card.weights else None
    except (SensoriumError, OSError):
        return None
