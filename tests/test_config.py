from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensorium.config import WITH_SECRETS, Settings, config_file, load_settings
from sensorium.errors import InvalidConfiguration
from sensorium.service import Sensorium


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sensorium.toml").write_text(
        'port = 9001\nthreads = 3\n[models]\nclassify = ["一号"]\n', encoding="utf-8"
    )
    monkeypatch.setenv("SENSORIUM_PORT", "9002")
    monkeypatch.setenv("SENSORIUM_ALLOWED_HOSTS", '["pictures.local:8080"]')
    settings = load_settings(cache="off")
    assert (settings.port, settings.threads, settings.cache) == (9002, 3, "off")
    assert settings.models == {"classify": ["一号"]}
    assert settings.allowed_hosts == ["pictures.local:8080"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "prot"),
        ("port = 99999", "`port`"),
        ("port = ", "cannot be read"),
        ('cache = "disk"', "`cache`"),
        ('device = "gpu"', "`device`"),
    ],
)
def test_a_wrong_file_is_refused_by_naming_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sensorium.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=said):
        load_settings()


@pytest.mark.parametrize("value", ["{classify", "ask=gpt-4o", '{"ask": "gpt-4o"}', '["gpt-4o"]'])
def test_a_wrong_table_in_the_environment_is_refused_with_an_example_that_works(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SENSORIUM_MODELS", value)
    with pytest.raises(InvalidConfiguration, match=r"(?i)models") as refused:
        load_settings()
    example = re.search(r"SENSORIUM_MODELS='([^']+)'", str(refused.value))
    assert example
    monkeypatch.setenv("SENSORIUM_MODELS", example[1])
    assert load_settings().models["ask"] == ["gpt-4o", "perception"]


@pytest.mark.parametrize("name", ["fallbacks", "prices", "allowed_hosts"])
def test_every_list_and_table_of_the_environment_is_shown_by_an_example(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SENSORIUM_{name.upper()}", "nonsense")
    with pytest.raises(
        InvalidConfiguration, match=f"SENSORIUM_{name.upper()} cannot be read: it is not JSON"
    ) as refused:
        load_settings()
    monkeypatch.setenv(f"SENSORIUM_{name.upper()}", str(refused.value).split("'")[1])
    assert getattr(load_settings(), name)


def test_the_documented_form_in_the_environment_works(monkeypatch: pytest.MonkeyPatch) -> None:
    told = re.search(r"`SENSORIUM_MODELS='([^']+)'`", Settings.model_fields["models"].description or "")
    assert told
    monkeypatch.setenv("SENSORIUM_MODELS", told[1])
    assert load_settings().models == {"ask": ["gpt-4o", "perception"]}


def test_the_named_file_is_read_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "设置.toml"
    named.write_text("port = 1234", encoding="utf-8")
    monkeypatch.setenv("SENSORIUM_CONFIG", str(named))
    assert config_file() == named
    assert load_settings().port == 1234
    monkeypatch.setenv("SENSORIUM_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(InvalidConfiguration, match=r"nowhere\.toml"):
        load_settings()


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_secrets_are_told_to_processes_of_our_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a secret of tokens that nobody may see"
    monkeypatch.setenv("SENSORIUM_JWT_SECRET", secret)
    settings = load_settings(sealing_key=secret)
    for told in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert secret not in told
    again = Settings.model_validate_json(settings.model_dump_json(context=WITH_SECRETS))
    assert again.jwt_secret is not None
    assert again.jwt_secret.get_secret_value() == secret
    assert again.sealing_key == settings.sealing_key


def test_the_address_of_a_redis_keeps_its_password_to_processes_of_our_own() -> None:
    settings = load_settings(cache="redis", redis_url="redis://:swordfish@redis:6379/0")
    assert "swordfish" not in settings.model_dump_json() + repr(settings)
    assert "swordfish" in settings.model_dump_json(context=WITH_SECRETS)


def test_a_cache_in_redis_needs_its_address() -> None:
    with pytest.raises(InvalidConfiguration, match="redis_url"):
        Sensorium(load_settings(cache="redis"))
