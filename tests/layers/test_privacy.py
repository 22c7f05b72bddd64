"""Privacy: remote models are for those who allow them, also as fallback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Options
from sensorium.errors import RemoteForbidden
from sensorium.media.source import Source
from sensorium.schemas.analyze import AnalyzeRequest
from sensorium.schemas.classify import ClassifyRequest
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import jpeg

LOCAL = Options(remote=False)


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Sensorium]:
    """A service with two remote models and one that is not, and these settings."""
    models = tmp_path / "models"
    for name in ("far", "farther", "near"):
        put_fake(models, name, remote=name != "near")

    def made(**settings: Any) -> Sensorium:
        return Sensorium(Settings(models_dir=models, cache_dir=tmp_path / "cache", **settings))

    return made


def request(model: str | None = None) -> ClassifyRequest:
    return ClassifyRequest(image=Source.of(jpeg()), model=model)


async def test_a_remote_model_is_refused_to_who_wants_privacy_though_its_answer_is_remembered(
    service: Callable[..., Sensorium],
) -> None:
    async with service() as sensorium:
        assert (await sensorium.run(request("far"))).meta.engine == "far@1"
        with pytest.raises(RemoteForbidden, match="far@1"):
            await sensorium.run(request("far"), options=LOCAL)
        assert (await sensorium.run(request("near"), options=LOCAL)).meta.engine == "near@1"


async def test_the_setting_holds_for_everyone(service: Callable[..., Sensorium]) -> None:
    async with service(privacy="local") as sensorium:
        with pytest.raises(RemoteForbidden):
            await sensorium.run(request("far"), options=Options(remote=True))


async def test_fallback_passes_over_remote_models_and_says_so(service: Callable[..., Sensorium]) -> None:
    async with service(models={"classify": ["far", "near"]}) as sensorium:
        answer = await sensorium.run(request(), options=LOCAL)
    assert answer.meta.engine == "near@1"
    assert [one.code for one in answer.meta.skipped] == ["remote_forbidden"]


async def test_where_all_models_are_remote_it_is_forbidden_rather_than_unavailable(
    service: Callable[..., Sensorium],
) -> None:
    async with service(models={"classify": ["far", "farther"]}) as sensorium:
        with pytest.raises(RemoteForbidden, match=r"far@1.*farther@1"):
            await sensorium.run(request(), options=LOCAL)


async def test_the_parts_of_a_composed_task_are_held_to_it(service: Callable[..., Sensorium]) -> None:
    named = {"classify": ["far"], "read": ["near"], "describe_pixels": ["near"]}
    async with service(models=named) as sensorium:
        answer = await sensorium.run(AnalyzeRequest(image=Source.of(jpeg())), options=LOCAL)
    assert answer.failures["classify"].code == "remote_forbidden"
    assert answer.read is not None
