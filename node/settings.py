"""Configuration: environment, then `farebox.toml` in the data directory; parsed once.

What operators change at run time lives in the database instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from finance.networks import NETWORKS, Network


def default_data_dir() -> Path:
    """`~/.farebox`, unless FAREBOX_DATA_DIR says otherwise."""
    return Path(os.environ.get("FAREBOX_DATA_DIR", "~/.farebox")).expanduser()


class Settings(BaseSettings):
    """One node's configuration. No secret has a default."""

    model_config = SettingsConfigDict(env_prefix="FAREBOX_", frozen=True, extra="forbid")

    data_dir: Path = Field(description="wallet, database and settings live here")
    network: Literal["devnet", "base-sepolia", "base"] = Field(
        default="base-sepolia", description="which chain, see finance.networks"
    )
    rpc_urls: list[str] = Field(default=[], description="tried in order; default: the network's")
    database_url: str = Field(default="", description="default: SQLite in the data directory")
    passphrase: SecretStr | None = Field(default=None, description="opens the keystore")
    passphrase_file: Path | None = Field(default=None, description="file with the passphrase")
    public_url: str = Field(default="", description="where buyers reach the gateway")
    gateway_bind: str = Field(default="0.0.0.0:8402", description="host:port, public")
    console_bind: str = Field(default="127.0.0.1:8400", description="host:port, private")
    chain_id: int | None = Field(default=None, description="devnet only: another chain id")
    allowed_hosts: list[str] = Field(
        default=[],
        description="hosts (or host:port) in private ranges that upstream and bought URLs may use",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        data_dir = init_settings().get("data_dir") or default_data_dir()
        toml = TomlConfigSettingsSource(settings_cls, Path(data_dir) / "farebox.toml")
        return init_settings, env_settings, toml
