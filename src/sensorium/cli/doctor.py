"""Say what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from sensorium.config import Settings
    from sensorium.engine import Card
    from sensorium.registry import Registry

EXAMPLE = """\b
Examples:
  sensorium doctor
  sensorium doctor --json"""

OLDEST_PYTHON = (3, 11)
ROOM = 500_000_000
"""Bytes free for built graphs: those of a few models of 20 to 100 MB."""

NOT_MISSED = ("dev", "test", "docs", "gpu", "torch")
"""Extras that only some have a use for, and who has knows of it."""

GPU_RUNTIME = "onnxruntime-gpu"
"""Does all that onnxruntime does, and CUDA."""

OTHER_VARIABLES = {
    "SENSORIUM_CONFIG",
    "SENSORIUM_DEBUG",
    "SENSORIUM_KEY",
    "SENSORIUM_RUN_DIR",
    "SENSORIUM_TEST_DATA",
}
"""Variables that are no settings."""

Health = Literal["ok", "note", "bad"]
COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    health: Health
    found: str
    fix: str = ""


@click.command("doctor", help="Say what is installed, what is missing, and the command that mends it.", epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object. [default: words for people]")
def command(as_json: bool) -> int:
    checks: list[Check] = []
    for check in _checks():
        checks.append(check)
        if not as_json:
            _show(check)
    healthy = all(check.health != "bad" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    else:
        click.echo(_summary(checks))
    return 0 if healthy else 1


def _summary(checks: Sequence[Check]) -> str:
    if any(check.health == "bad" for check in checks):
        return "Something is wrong: mend what is marked `bad`, from the top."
    notes = sum(check.health == "note" for check in checks)
    return f"The main job works. Worth a look: what is marked `note` ({notes})." if notes else "All is well."


def _show(check: Check) -> None:
    # Plain click: rich itself may be what is missing.
    click.echo(f"{click.style(f'{check.health:<4}', fg=COLOURS[check.health])}  {check.name}: {check.found}")
    if check.fix:
        click.echo(f"      {check.fix}")


def _checks() -> Iterator[Check]:
    yield _python()
    packages = [*_packages(), *_runtimes()]
    yield from packages
    if any(check.health == "bad" for check in packages):
        return  # what follows would only fail for the same reason
    try:
        yield from _deeper_checks()
    except Exception as error:  # noqa: BLE001 - whatever breaks is what the doctor is to tell
        yield _broken("sensorium", error)


def _deeper_checks() -> Iterator[Check]:
    from sensorium.config import load_settings
    from sensorium.errors import InvalidConfiguration
    from sensorium.registry import Registry

    try:
        settings = load_settings()
    except InvalidConfiguration as error:
        yield Check("settings", "bad", str(error))
        return
    yield _settings()
    yield from _unknown_variables()
    yield _cache_folder(settings.cache_dir)
    yield _room(settings.cache_dir)
    yield _captions()
    registry = Registry(settings.models_dir)
    yield _models_folder(settings.models_dir, registry)
    yield from _models(registry, settings)
    yield from _fallbacks(registry, settings)
    yield _main_job(settings)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}, {os.cpu_count()} cores"
    if sys.version_info >= OLDEST_PYTHON:
        return Check("Python", "ok", found)
    return Check("Python", "bad", found, f"Install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer.")


def _runtimes() -> Iterator[Check]:
    """The two builds of onnxruntime write the same files: what was installed last wins, until either is removed."""
    if _version("onnxruntime") and _version(GPU_RUNTIME):
        yield Check(
            GPU_RUNTIME,
            "bad",
            "installed over onnxruntime: each spoils the files of the other",
            f"Run `pip uninstall --yes onnxruntime {GPU_RUNTIME}`, then `pip install {GPU_RUNTIME}`.",
        )


def _packages() -> Iterator[Check]:
    try:
        requirements = importlib.metadata.requires("sensorium") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "note", "sensorium runs from a folder, not installed", "Run `pip install -e .` there.")
        return
    present, wanting = [], dict[str, str]()
    for requirement in requirements:
        name, extra = _parsed(requirement)
        if name == "onnxruntime" and _version(GPU_RUNTIME):
            continue  # that one takes its place
        version = _version(name)
        if version:
            present.append(f"{name} {version}")
        elif extra not in NOT_MISSED:
            wanting[name] = extra
    yield Check("packages", "ok", ", ".join(present))
    for name, extra in wanting.items():
        if extra:
            yield Check(name, "note", f"not installed; needed for {extra}", f"Run `pip install 'sensorium[{extra}]'`.")
        else:
            yield Check(name, "bad", "not installed", "Run `pip install --force-reinstall sensorium`.")


def _parsed(requirement: str) -> tuple[str, str]:
    """The name of the package, and the extra that brings it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", requirement)
    return (name[0] if name else requirement), (extra[1] if extra else "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings() -> Check:
    from sensorium.config import config_file

    file = config_file()
    variables = sorted(name for name in os.environ if name.startswith("SENSORIUM_") and name not in OTHER_VARIABLES)
    said = f"from {file}" if file else "no file, so the defaults hold"
    return Check("settings", "ok", f"{said}; in the environment: {', '.join(variables) or 'none'}")


def _unknown_variables() -> Iterator[Check]:
    from sensorium.config import Settings

    known = OTHER_VARIABLES | {f"SENSORIUM_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith("SENSORIUM_") and name.upper() not in known:
            yield Check(name, "note", "there is no such setting, so it does nothing", "`sensorium settings` lists all.")


def _cache_folder(folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Check("cache folder", "ok", str(folder))
    except OSError as error:
        fix = "Set SENSORIUM_CACHE_DIR to a folder that can be written."
        return Check("cache folder", "bad", f"{folder} cannot be written ({error.strerror})", fix)


def _room(folder: Path) -> Check:
    there = next((place for place in (folder, *folder.parents) if place.exists()), Path.cwd())
    free = shutil.disk_usage(there).free
    said = f"{free / 1e9:.1f} GB free"
    if free >= ROOM:
        return Check("disk", "ok", said)
    return Check("disk", "note", said, f"Keep {ROOM / 1e9:.1f} GB free for built models, or move `cache_dir`.")


def _captions() -> Check:
    from sensorium.media.draw import can_write_chinese

    if can_write_chinese():
        return Check("captions", "ok", "a font with Chinese is there")
    fix = "To have them as words install a font (Debian: apt-get install fonts-wqy-microhei)."
    return Check("captions", "note", "no font with Chinese: --draw puts numbers in place of such words", fix)


def _models_folder(folder: Path, registry: Registry) -> Check:
    own = sum(card.folder is not None for card in registry.cards)
    if not folder.is_dir():
        return Check("models folder", "ok", f"{folder}, which is not there yet: `sensorium models add` makes it")
    return Check("models folder", "ok", f"{folder}, with {own} model{'' if own == 1 else 's'}")


def _models(registry: Registry, settings: Settings) -> Iterator[Check]:
    for task in registry.tasks:
        if named := settings.models.get(task.name):
            yield from (_named_model(registry, settings, name, task.name) for name in named)
        else:
            yield from (_own_model(registry, settings, name, task.name) for name in registry.own(task))
    for problem in registry.problems:
        yield Check("registry", "note", str(problem))


def _own_model(registry: Registry, settings: Settings, name: str, task: str) -> Check:
    """Of a task for which the settings name none."""
    card = registry.card(name, task)
    state = registry.state(card)
    if state == "ready" and (trouble := _trouble(registry, settings, card)):
        return Check(f"model for {task}", "bad", *trouble)
    fix = "" if state == "ready" else "Run `pip install --force-reinstall sensorium`."
    return Check(f"model for {task}", "ok" if state == "ready" else "bad", f"{card.id}, {state}", fix)


def _fallbacks(registry: Registry, settings: Settings) -> Iterator[Check]:
    """Each model that others stand in for, and those others: all must do one of its tasks."""
    every = [task.name for task in registry.tasks if task.run is None]
    for name, others in settings.fallbacks.items():
        fix = f"Correct the setting `fallbacks`, at {name!r}."
        yield _model_of(registry, settings, name, every, "model with fallbacks", fix)
        does = [task for task in every if _does(registry, name, task)] or every
        yield from (_model_of(registry, settings, other, does, f"fallback of {name}", fix) for other in others)


def _does(registry: Registry, name: str, task: str) -> bool:
    from sensorium.errors import SensoriumError

    try:
        return registry.card(name, task).does(task)
    except SensoriumError:
        return False


def _trouble(registry: Registry, settings: Settings, card: Card) -> tuple[str, str] | None:
    """Why a file that was put into the models folder by hand does not load, and what to do: no checksum vouches for it."""
    from sensorium.engine import Host
    from sensorium.errors import SensoriumError

    if card.weights is None or not card.weights.alone:
        return None
    engine = registry.engine(card, Host(cache_dir=settings.cache_dir, threads=settings.threads, device="cpu"))
    try:
        engine.load()
    except SensoriumError as error:
        return f"{card.id}: {error}", "" if error.fix else error.remedy
    finally:
        engine.close()
    return None


def _named_model(registry: Registry, settings: Settings, name: str, task: str) -> Check:
    return _model_of(registry, settings, name, [task], f"model for {task}", f"Correct the setting `models.{task}`.")


def _model_of(registry: Registry, settings: Settings, name: str, tasks: Sequence[str], called: str, fix: str) -> Check:
    """A model that the settings name for one of these tasks. One that is not ready is a note: another may stand after it."""
    from sensorium.errors import SensoriumError

    task = next((task for task in tasks if _does(registry, name, task)), tasks[0])
    try:
        card = registry.card(name, task)
    except SensoriumError as error:
        return Check(called, "bad", str(error), fix)
    state = registry.state(card)
    if state == "ready" and (trouble := _trouble(registry, settings, card)):
        return Check(called, "bad", *trouble)
    return Check(called, "ok" if state == "ready" else "note", f"{card.id}, {state}")


def _main_job(settings: Settings) -> Check:
    """Classify a picture as a user would."""
    import asyncio

    from sensorium.errors import SensoriumError
    from sensorium.service import Sensorium

    async def work() -> str:
        from sensorium.media.source import Source
        from sensorium.schemas.classify import ClassifyRequest

        async with Sensorium(settings) as sensorium:
            start = time.perf_counter()
            found = await sensorium.run(ClassifyRequest(image=Source.of(_picture())))
            return f"{found.meta.engine} classified a picture, loading included, in {time.perf_counter() - start:.1f} s"

    try:
        return Check("main job", "ok", asyncio.run(work()))
    except SensoriumError as error:
        return Check("main job", "bad", str(error), error.remedy if not error.fix else "")
    except Exception as error:  # noqa: BLE001 - also what nobody has thought of
        return _broken("main job", error)


def _picture() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()


def _broken(name: str, error: Exception) -> Check:
    return Check(name, "bad", f"{type(error).__name__}: {error}", "Run `pip install --force-reinstall sensorium`.")
