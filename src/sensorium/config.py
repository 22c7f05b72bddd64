"""Every setting, with what it means. From the environment, then a file, then the defaults here.

The file is `sensorium.toml` in the working folder, or what SENSORIUM_CONFIG names, or
`config.toml` in the user's configuration folder. In the environment a setting is written
SENSORIUM_NAME, lists and tables as JSON. `docs/settings.md` is generated from here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, Field, FieldSerializationInfo, SecretStr, ValidationError, field_serializer
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from sensorium.errors import InvalidConfiguration
from sensorium.pricing import Price
from sensorium.schemas.base import wrong_fields

WITH_SECRETS = "with secrets"
"""As `context` of `model_dump_json`: tells secrets too, to a process of our own. Otherwise they are stars."""

CONFIG_VARIABLE = "SENSORIUM_CONFIG"
DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
"""How a device is written."""


class Settings(BaseSettings):
    """How sensorium runs here."""

    model_config = SettingsConfigDict(
        env_prefix="SENSORIUM_", extra="forbid", frozen=True, use_attribute_docstrings=True, toml_file=None
    )

    models_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("sensorium") / "models")
    """The folder with cards (TOML) and weights of your own models."""
    cache_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("sensorium"))
    """Where built graphs and, if wanted, remembered answers are kept. Safe to delete."""
    models: dict[str, list[str]] = Field(
        default={}, examples=[{"ask": ["gpt-4o", "perception"], "classify": ["flowers"]}]
    )
    """For each task, the models to ask, best first; the next is asked when one fails. Absent: the task's own default. A
    name with a version, such as `flowers@2`, also pins that version wherever the name stands alone; else the highest is meant.
    In the file `models.ask = ["gpt-4o", "perception"]`, in the environment `SENSORIUM_MODELS='{"ask": ["gpt-4o", "perception"]}'`."""
    fallbacks: dict[str, list[str]] = Field(default={}, examples=[{"gpt-4o": ["gemini/gemini-2.5-flash"]}])
    """For a model that a request names, those to ask when it fails, in order, such as `{"gpt-4o" = ["gemini/gemini-2.5-flash"]}`.
    Of them, those are asked that do the task. Absent: a model that is named is asked alone."""
    preload: list[str] = []
    """Models that the server loads and tries before it says that it is ready; all others load at their first request."""
    unload_after_seconds: float = Field(default=0.0, ge=0)
    """After how long without a request a model is taken out of memory, until the next request; 0: never."""
    watch_seconds: float = Field(default=1.0, ge=0)
    """How often the server looks into the models folder for new, changed and removed models; 0: only when it is told to."""

    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """How many cores to compute on."""
    device: str = Field(default="auto", pattern=DEVICE)
    """What models compute on: `cpu`, `cuda` or `cuda:N` (a graphics card by NVIDIA), or `auto`: the first card if it
    works, else the processor."""
    running: int = Field(default_factory=lambda: 2 * (os.cpu_count() or 1) + 2, ge=1)
    """How many requests are worked on at once; a little over the cores, so that decoding overlaps computing."""
    running_elsewhere: int = Field(default=256, ge=1)
    """How many requests may be under way at once, beside those of `running`, whose answers are awaited from models that run
    elsewhere: at a provider, or in a server of your own."""
    waiting: int = Field(default_factory=lambda: 16 * (os.cpu_count() or 1), ge=0)
    """How many more may wait for their turn; the rest is refused as overloaded. By default 16 for each core: a longer line only makes all wait longer."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """How long a request may take, waiting included, unless it says otherwise."""

    cache: Literal["memory", "sqlite", "redis", "off"] = "memory"
    """Where answers are remembered: in this process, in a file that outlives it, in the Redis of `redis_url`, or nowhere."""
    cache_seconds: float = Field(default=3600.0, gt=0)
    """How long an answer is remembered."""
    cache_bytes: int = Field(default=64 * 2**20, ge=0)
    """How many bytes of answers `cache = "memory"` holds."""

    max_bytes: int = Field(default=20_000_000, ge=1)
    """The largest file that is accepted, in bytes."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """The largest picture that is decoded, in pixels; larger JPEGs are decoded at 1/2 to 1/8."""
    pixel_budget: int = Field(default=200_000_000, ge=1)
    """How many decoded pixels the process holds at once; more wait."""
    fetch_seconds: float = Field(default=10.0, gt=0)
    """How long fetching a URL may take, redirects included."""
    max_redirects: int = Field(default=5, ge=0)
    """How many redirects are followed."""
    allowed_hosts: list[str] = []
    """Hosts (`name` or `name:port`) that URLs, of pictures and of webhooks, may name although their address is private."""

    host: str = "127.0.0.1"
    """The address that `sensorium serve` listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port that `sensorium serve` listens on; 0 takes a free one."""
    workers: int = Field(default=1, ge=1)
    """How many processes serve. Each of several computes on its share of the cores, and answers, rates and streams are kept in files
    that all of them read, unless `threads`, `running`, `cache`, `rates` and `streams` say otherwise."""
    drain_seconds: float = Field(default=30.0, gt=0)
    """How long a server that is told to stop goes on with what is under way."""
    certfile: Path | None = None
    """The certificate chain (PEM) to serve HTTPS with; absent: plain HTTP."""
    keyfile: Path | None = None
    """The private key (PEM) of `certfile`."""
    max_upload_bytes: int = Field(default=200_000_000, ge=1)
    """The largest HTTP body that is accepted, all files together."""
    upload_seconds: float = Field(default=60.0, gt=0)
    """How long a client may take to send a body."""
    upload_budget: int = Field(default=500_000_000, ge=1)
    """How many bytes of HTTP bodies a process holds at once, all clients together; more are refused as overloaded."""
    unread_seconds: float = Field(default=60.0, ge=1)
    """How long a client may leave an answer unread before its connection is closed; only Linux keeps this time."""

    auth: Literal["auto", "on", "off"] = "auto"
    """Whether the server asks for a key or token. `auto`: unless `host` is this machine's own (127.0.0.1, ::1, localhost) and no tokens are set up."""
    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("sensorium"))
    """Where keys are kept. Not safe to delete."""
    sealing_key: SecretStr | None = None
    """What seals the secrets of keys that sign, and of which secrets of webhooks are made; 32 signs at least. Absent: the file `server.key` in `data_dir`, made when it is first needed."""
    rates: Literal["memory", "sqlite"] = "memory"
    """Where requests per minute are counted: in this process, or in a file that all servers with this `cache_dir` share."""
    jwt_secret: SecretStr | None = None
    """The secret of tokens (JWT) signed with HS256, 32 signs at least. Absent: none are taken."""
    jwks_file: Path | None = None
    """The file with the public keys (JWKS) of tokens signed with RS256; read again when it changes. Absent: none are taken."""
    jwt_audience: str | None = None
    """What `aud` of a token must name. Absent: it is not looked at."""
    jwt_issuer: str | None = None
    """What `iss` of a token must be. Absent: it is not looked at."""
    jwt_rate: int | None = Field(default=None, ge=1)
    """How many requests a minute each `sub` of a token may send. Absent: no limit."""
    trusted_hosts: list[str] = []
    """Names that clients call this server by, beside localhost and `host`; `*` is any. Looked at only while no key is asked for."""
    cors_origins: list[str] = []
    """Web pages that may ask this server from a browser, such as `https://example.com`; `*` is any."""

    log_format: Literal["text", "json"] = "text"
    """How the server writes its log: for people, or one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What the server's log leaves out: lines of less weight than this. Each request is a line of `info`."""
    traces_to: str | None = Field(default=None, pattern="^https?://")
    """Where to send OpenTelemetry traces (OTLP over HTTP), such as `http://localhost:4318/v1/traces`; needs the extra `otel`. Absent: none are made."""

    prices: dict[str, Price] = Field(default={}, examples=[{"llava": {"input": 0.1, "output": 0.2}}])
    """What models cost, by name with or without `provider/`, in US dollars per million tokens: `input`, `output` and `cached`. They
    go before the published prices, and make `llava = {input = 0.1, output = 0.2}` of a model of your own."""

    redis_url: SecretStr | None = None
    """The Redis or Valkey that several servers share, such as `redis://:PASSWORD@HOST:6379/0`; needs the extra `redis`. Absent: none."""

    provider_attempts: int = Field(default=3, ge=1)
    """How often a remote model is asked before the next one is, or the failure is told; all within the request's own time."""
    provider_requests_per_minute: int = Field(default=60, ge=0)
    """How many requests a minute go to one provider, all models that share its limits together; 0: no limit. A card's
    `limits` go before this, and before the next two."""
    provider_tokens_per_minute: int = Field(default=0, ge=0)
    """How many tokens a minute, in and out; 0: no limit."""
    provider_concurrent: int = Field(default=5, ge=0)
    """How many requests may be under way at once; 0: no limit."""

    ask_longest_side: int = Field(default=1024, ge=32)
    """How large a picture is sent to a remote model at most, in pixels of its longer side; never larger than it is."""
    ask_several_longest_side: int = Field(default=2048, ge=32)
    """As `ask_longest_side`, of each of several pictures in one question, and of one that is asked about with detail `high`."""
    ask_quality: int = Field(default=85, ge=1, le=100)
    """The quality of the JPEGs that pictures for a remote model are made into."""

    privacy: Literal["any", "local"] = "any"
    """Which models may answer. `local`: none for which pictures or words would leave this machine, also where they are named to fall back on."""

    streaming: Literal["live", "whole"] = "live"
    """How the server tells streamed answers. `live`: as they come; one that breaks in the middle ends with an error. `whole`: once they are
    known to be whole, with signs of life until then, so that a model that breaks in the middle is asked again, or the next one."""
    heartbeat_seconds: float = Field(default=15.0, ge=0.01)
    """After how long without anything to tell a streamed answer gives a sign of life, so that nobody on the way takes it for dead."""

    resume_grace_seconds: float = Field(default=10.0, ge=0)
    """How long the work on a streamed answer goes on when nobody reads it any more, so that its reader can come back; 0: not at
    all. On `POST /v1/<task>`; on other routes a client that leaves ends the work at once."""
    streams: Literal["memory", "sqlite"] = "memory"
    """Where streamed answers are kept for readers that come back: in this process, or in a file that all workers of this
    server share; without workers it is in `cache_dir`."""

    jobs: Literal["embedded", "celery"] = "embedded"
    """Who works on jobs: processes of the server, or `sensorium worker` on as many machines as there are, through Celery and Redis; that
    needs the extra `celery`."""
    jobs_dir: Path | None = None
    """Where jobs and their inputs are kept, in clear. Absent: the folder `jobs` in `data_dir`. With `jobs = "celery"` it holds the inputs,
    and must be the same folder, by the same path, for servers and workers."""
    jobs_redis_url: SecretStr | None = None
    """The Redis or Valkey that keeps jobs when `jobs = "celery"`; it must not throw keys out to make room. Absent: that of `redis_url`."""
    celery_broker: SecretStr | None = None
    """Where Celery's messages go: `redis://…`, or `amqp://…` for RabbitMQ. Absent: the Redis that keeps jobs."""
    celery_gpu_models: list[str] = []
    """Models whose work goes to queues that end in `.gpu`, which only workers with a graphics card listen to."""
    job_workers: int = Field(default=1, ge=0)
    """How many processes of the server work on jobs, beside those that answer; they start with the first job. 0: none of this server."""
    job_lease_seconds: float = Field(default=30.0, ge=0.5)
    """For how long work belongs to a worker that gives no sign of life any more; then another takes it."""
    job_attempts: int = Field(default=3, ge=1)
    """How often an item is tried that fails in a way that may pass, or that its worker dies of."""
    jobs_per_key: int = Field(default=10_000, ge=1)
    """How many jobs of one key may wait or be worked on; further ones are refused with 429 until some have ended. With `auth = "off"`
    all callers together."""
    job_kept_seconds: float = Field(default=86400.0, gt=0)
    """How long a job and its outcomes are kept after its end."""
    job_quota_bytes: int = Field(default=10_000_000_000, ge=0)
    """How many bytes of files each key's jobs may have aside, all together; each file counts 4,096 at least."""
    job_inputs: Literal["until_end", "until_expiry"] = "until_end"
    """How long files that came with a job are kept: until it has ended, or as long as the job itself."""

    file_bytes: int = Field(default=1_000_000_000, ge=1)
    """The largest file that can be uploaded ahead of the requests that name it, in bytes; in one request no more than
    `max_upload_bytes`, the rest in parts. What is done with it has its own limits."""
    file_quota_bytes: int = Field(default=10_000_000_000, ge=0)
    """How many bytes of uploaded files each key may have, all together; each counts 4,096 at least."""
    file_kept_seconds: float = Field(default=7 * 86400.0, gt=0)
    """How long an uploaded file is kept, unless its sender asks for less."""

    @field_serializer("sealing_key", "jwt_secret", "redis_url", "jobs_redis_url", "celery_broker")
    def _hidden(self, secret: SecretStr | None, info: FieldSerializationInfo[Any]) -> Any:
        return secret.get_secret_value() if secret and info.context == WITH_SECRETS else secret

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a .env file would be a second way
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a folder of files would be a third way
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def _in_environment(name: str) -> str:
    """An example of a list or table, as a variable that a shell takes."""
    example = (Settings.model_fields[name].examples or [["a", "b"]])[0]
    return f"SENSORIUM_{name.upper()}='{json.dumps(example)}'"


def _tables_in_environment() -> set[str]:
    tables = (name for name, field in Settings.model_fields.items() if field.examples)
    return {name for name in tables if f"SENSORIUM_{name.upper()}" in os.environ}


def exactly(values: Mapping[str, object]) -> Settings:
    """Settings of these values; neither the environment nor a file is looked at."""
    settings = Settings.__new__(Settings)
    BaseModel.__init__(settings, **values)
    return settings


def config_file() -> Path | None:
    """The file that settings are read from; None when there is none.

    Raises InvalidConfiguration when SENSORIUM_CONFIG names a file that is not there.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        if not Path(named).is_file():
            raise InvalidConfiguration(f"No file at {named}", why=f"{CONFIG_VARIABLE} names it")
        return Path(named)
    usual = Path("sensorium.toml"), platformdirs.user_config_path("sensorium") / "config.toml"
    return next((path for path in usual if path.is_file()), None)


def load_settings(**given: object) -> Settings:
    """The settings in force; what is given here goes before environment and file.

    Raises InvalidConfiguration, naming every setting that is wrong.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic checks them
    except ValidationError as error:
        named = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
        written = "".join(f"Write it as {_in_environment(name)}; " for name in sorted(named & _tables_in_environment()))
        raise InvalidConfiguration(
            "The settings are wrong",
            why=wrong_fields(error, Settings),
            fix=f"{written}docs/settings.md lists all of them",
        ) from error
    except SettingsError as error:  # of a variable that is no JSON
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        what = f"SENSORIUM_{name.upper()}" if name else "The environment"
        fix = f"Write it as {_in_environment(name)}" if name else ""
        raise InvalidConfiguration(f"{what} cannot be read", why="it is not JSON", fix=fix) from error
    except (ValueError, OSError) as error:
        raise InvalidConfiguration(f"{config_file()} cannot be read", why=str(error)) from error
