"""What deploy/ says fits together, and fits the code; nothing here is built or started."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from sensorium.cli import main
from sensorium.config import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
NGINX = (DEPLOY / "nginx" / "nginx.conf").read_text(encoding="utf-8")
FROM_ELSEWHERE = {"./prometheus", "./grafana/sensorium.json"}
"""Places that have tests of their own."""


def instructions() -> list[list[str]]:
    whole = re.sub(r"\\\n", " ", DOCKERFILE)
    return [line.split(maxsplit=1) for line in whole.splitlines() if line and not line.startswith("#")]


def of(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def test_the_last_stage_brings_no_build_tools_and_runs_as_nobody_special() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "pip install" not in last
    assert "apt-get" not in last
    assert re.search(r"^USER (?!0|root)\d+:\d+$", last, re.MULTILINE)
    assert last.index("USER ") < last.index("CMD [")


def test_whatever_is_copied_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for rest in of("COPY") if not rest.startswith("--from") for word in shlex.split(rest)[:-1]]
    assert {"src", "pyproject.toml", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} does not reach the build"


def test_folders_that_are_written_to_are_volumes_of_the_user() -> None:
    (volumes,) = of("VOLUME")
    for name in ("SENSORIUM_MODELS_DIR", "SENSORIUM_CACHE_DIR"):
        (folder,) = re.findall(rf"{name}=(\S+)", DOCKERFILE)
        assert any(folder.startswith(volume) for volume in yaml.safe_load(volumes))
        assert re.search(rf"install -d -o sensorium .*{re.escape(folder)}\b", " ".join(of("RUN")))


@pytest.mark.parametrize("keyword", ["HEALTHCHECK", "CMD"])
def test_the_image_runs_commands_that_exist(keyword: str) -> None:
    (rest,) = of(keyword)
    words = yaml.safe_load(rest[rest.index("[") :])
    assert words[0] == "sensorium"
    assert words[1] in main.list_commands(None)  # type: ignore[arg-type] # it looks at no context


def test_settings_in_files_exist() -> None:
    named = set(re.findall(r"SENSORIUM_([A-Z_]+)", DOCKERFILE + (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    assert {"HOST", "CACHE"} <= named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [volume for service in COMPOSE["services"].values() for volume in service.get("volumes", ())]
    for mount in mounts:
        source, target, *_ = mount.split(":")
        if source in FROM_ELSEWHERE:
            continue
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert mount.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"], source
        assert target.startswith("/")


def test_compose_builds_from_the_dockerfile_and_drains_before_it_kills() -> None:
    instance = COMPOSE["services"]["sensorium-1"]
    context = (DEPLOY / instance["build"]["context"]).resolve()
    assert (context / instance["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert int(instance["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_seconds"].default + 10
    assert instance["read_only"] is True


def test_nginx_knows_the_instances_of_compose() -> None:
    behind = set(re.findall(r"server ([\w-]+):8000", NGINX))
    assert behind == {name for name in COMPOSE["services"] if name.startswith("sensorium")}
    assert of("EXPOSE") == ["8000"]
    assert Settings.model_fields["port"].default == 8000


def test_nginx_waits_longer_and_takes_a_little_more_than_the_server() -> None:
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert 0 <= int(megabytes) * 2**20 - Settings.model_fields["max_upload_bytes"].default < 2**24
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert int(seconds) > Settings.model_fields["timeout_seconds"].default


def test_grafana_finds_prometheus_and_its_board() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"].split("/")[2].split(":")[0] in COMPOSE["services"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sensorium.yml").read_text("utf-8"))["providers"]
    boards = [volume for volume in COMPOSE["services"]["grafana"]["volumes"] if "sensorium.json" in volume]
    assert boards[0].split(":")[1].startswith(provider["options"]["path"])
