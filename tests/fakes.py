"""Fake models for a models folder, each with its own way to behave."""

from __future__ import annotations

from pathlib import Path


def put_fake(models: Path, name: str, quirks: str = "", *, remote: bool = False) -> None:
    """A card of the kind `fake` that does every task; its quirks as TOML."""
    models.mkdir(parents=True, exist_ok=True)
    head = f'name = "{name}"\nkind = "fake"\ntasks = ["*"]\nlicence = "Apache-2.0"\nremote = {str(remote).lower()}\n'
    (models / f"{name}.toml").write_text(f"{head}[quirks]\n{quirks}\n", encoding="utf-8")
