"""Settings as a user writes them, read, or the refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.settings.settings import Settings, read_settings

POLYGON = """
[[network]]
caip2 = "eip155:137"
name = "polygon"

[[asset]]
network = "polygon"
address = "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"
symbol = "USDC"
decimals = 6
domain_name = "USD Coin"
domain_version = "2"
"""


def read(tmp_path: Path, file: str | None = None, *, environ: dict[str, str] | None = None, **options: str) -> Settings:
    if file is not None:
        (tmp_path / "x402.toml").write_text(file)
        (tmp_path / "x402.toml").chmod(0o600)
    named = {f"x402_{key}": value for key, value in options.items()}
    return read_settings(named, environ or {}, cwd=tmp_path, home=tmp_path / "home")


def refusal(tmp_path: Path, file: str | None = None, *, environ: dict[str, str] | None = None, **options: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, file, environ=environ, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
