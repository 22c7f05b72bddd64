from __future__ import annotations

import sys
from types import ModuleType

import pytest

from sensorium.dependencies import is_installed


def test_a_module_that_another_thread_is_importing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    half = ModuleType("half_imported")  # as cv2 stands in `sys.modules` while it is being imported
    monkeypatch.setitem(sys.modules, "half_imported", half)
    assert half.__spec__ is None
    assert is_installed("half_imported")
    assert not is_installed("no_such_module")
