"""Configuration: environment, then `farebox.toml` in the data directory; parsed once.

What operators change at run time lives in the database instead.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from catalog.addresses import callable_parts
from finance.networks import NETWORKS, Network
from node.db.engine import DATABASE_NAME, sqlite_url
from node.errors import PassphraseMissing, SettingsInvalid

DEVNET_RPC_URL = "http://127.0.0.1:8545"


@dataclass(frozen=True, slots=True)
class Bind:
    """Where a server listens; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bind(text: str) -> Bind:
    """Read `host:port` or `[ipv6]:port`; ValueError says what is wrong with it."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port, e.g. 127.0.0.1:8400")
    return Bind(host, int(port))


def default_data_dir() -> Path:
    """`~/.farebox`, unless FAREBOX_DATA_DIR says otherwise. Raises SettingsInvalid."""
    return _of_home("data_dir", Path(os.environ.get("FAREBOX_DATA_DIR") or "~/.farebox"))


def _of_home(name: str, path: Path) -> Path:
    """With a `~` that no shell has replaced. Raises SettingsInvalid."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise SettingsInvalid(
            f"FAREBOX_{name.upper()}: {path} is in nobody's home directory; write the whole path"
        ) from None


class Settings(BaseSettings):
    """One node's configuration. No secret has a default."""

    model_config = SettingsConfigDict(env_prefix="FAREBOX_", frozen=True, extra="forbid")

    data_dir: Path = Field(description="wallet, database and settings live here")
    network: Literal["devnet", "base-sepolia", "base"] = Field(
        default="base-sepolia", description="which chain, see finance.networks"
    )
    rpc_urls: Annotated[list[str], NoDecode] = Field(
        default=[], description="tried in order; default: the network's"
    )
    database_url: str = Field(default="", description="default: SQLite in the data directory")
    passphrase: SecretStr | None = Field(default=None, description="opens the keystore")
    passphrase_file: Path | None = Field(default=None, description="file with the passphrase")
    public_url: str = Field(default="", description="where buyers reach the gateway")
    gateway_bind: str = Field(default="0.0.0.0:8402", description="host:port, public")
    console_bind: str = Field(default="127.0.0.1:8400", description="host:port, private")
    console_public_url: str = Field(
        default="",
        description="https address under which operators reach the console from elsewhere",
    )
    chain_id: int | None = Field(
        default=None, ge=1, le=2**53, description="devnet only: another chain id"
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="hosts (or host:port) in private ranges that upstream and bought URLs may use",
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="addresses or networks of reverse proxies whose X-Forwarded-For is believed",
    )

    @field_validator("rpc_urls", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Lists may be written with commas, as environment variables are."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("rpc_urls")
    @classmethod
    def _check_rpc(cls, value: list[str]) -> list[str]:
        return [_address(each, "http://127.0.0.1:8545") for each in value]

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: list[str]) -> list[str]:
        for each in value:
            try:
                ipaddress.ip_network(each)
            except ValueError:
                example = "127.0.0.1 or 10.0.0.0/8"
                raise ValueError(f"{each!r} is no address or network, e.g. {example}") from None
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: list[str]) -> list[str]:
        for each in value:
            if "/" in each or len(each.split()) != 1:
                raise ValueError(f"{each!r} is no host or host:port, e.g. 127.0.0.1:9000")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str) -> str:
        if value and set(_address(value, "https://api.example.com")) & {"?", "#"}:
            raise ValueError("paths of listings come below it: leave out what begins with ? or #")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value and not _names_database(value):
            raise ValueError(
                "write it as postgresql+psycopg://user@host/name, or sqlite:////whole/path"
            )
        return value

    @field_validator("console_public_url")
    @classmethod
    def _check_console_url(cls, value: str) -> str:
        """Signing in over plain http would show the session to the network between."""
        example = "https://farebox.example.com"
        if value and urlsplit(_address(value, example)).scheme != "https":
            raise ValueError(f"{value!r} is no https address, e.g. {example}")
        return value

    @field_validator("gateway_bind", "console_bind")
    @classmethod
    def _check_bind(cls, value: str) -> str:
        return str(parse_bind(value))

    @property
    def gateway(self) -> Bind:
        return parse_bind(self.gateway_bind)

    @property
    def console(self) -> Bind:
        return parse_bind(self.console_bind)

    @property
    def chain(self) -> Network:
        """The network's terms, with this node's RPC URLs and, on devnet, chain id."""
        network = NETWORKS[self.network]
        if self.network == "devnet" and self.chain_id is not None:
            network = replace(network, chain_id=self.chain_id)
        fallback = network.rpc_urls or (DEVNET_RPC_URL,)
        return replace(network, rpc_urls=tuple(self.rpc_urls) or fallback)

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or sqlite_url(self.data_dir / DATABASE_NAME)

    @property
    def keystore_dir(self) -> Path:
        return self.data_dir / "keys"

    @property
    def gateway_url(self) -> str:
        """Where buyers reach the gateway; without PUBLIC_URL, where it listens."""
        return self.public_url.rstrip("/") or self.gateway_here

    @property
    def console_url(self) -> str:
        return self.console_public_url.rstrip("/") or self.console_here

    @property
    def gateway_here(self) -> str:
        """This process's own gateway, as other commands on this machine reach it: under its
        public address a proxy may answer, or another process."""
        return f"http://{_reachable(self.gateway)}"

    @property
    def console_here(self) -> str:
        return f"http://{_reachable(self.console)}"

    @property
    def console_names(self) -> tuple[str, ...]:
        """Host names the console goes by, besides this machine's own."""
        host = urlsplit(self.console_public_url).hostname
        return (host,) if host else ()

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


def _names_database(text: str) -> bool:
    """Books that SQLite keeps in memory would be gone with the process."""
    if not text.startswith(("sqlite:///", "postgresql+psycopg://")):
        return False
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return False
    return url.get_backend_name() != "sqlite" or url.database not in (None, "", ":memory:")


def _address(text: str, example: str) -> str:
    """An http or https address, as it was given; ValueError says what is wrong with it."""
    if callable_parts(text) is None:
        raise ValueError(f"this is no http or https address, e.g. {example}")
    return text


def _reachable(bind: Bind) -> Bind:
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return replace(bind, host=wildcard.get(bind.host, bind.host))


def load_settings(data_dir: Path | None = None) -> Settings:
    """Read the settings once. Raises SettingsInvalid with a sentence per mistake."""
    if misspelt := [sentence for name in os.environ if (sentence := _meant(name))]:
        raise SettingsInvalid("; ".join(misspelt))
    try:
        given = _of_home("data_dir", data_dir) if data_dir else default_data_dir()
        return Settings(data_dir=given.absolute())
    except ValidationError as error:
        raise SettingsInvalid("; ".join(_sentence(fault) for fault in error.errors())) from error
    except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsInvalid(f"the settings cannot be read: {error}") from error


def _meant(name: str) -> str:
    """What to say of a variable that is no setting but nearly one; "" of all others. A node whose
    FAREBOX_NETWROK was passed over would run on another network than was asked for."""
    prefix, _, own = name.upper().partition("_")
    if prefix != "FAREBOX" or own.lower() in Settings.model_fields:
        return ""
    near = difflib.get_close_matches(own.lower(), Settings.model_fields, n=1, cutoff=0.85)
    return f"there is no setting {name}; did you mean FAREBOX_{near[0].upper()}?" if near else ""


def _sentence(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"farebox.toml: there is no setting {name!r}"
    words = str(fault["msg"]).removeprefix("Value error, ")
    return f"FAREBOX_{name.upper()} ({name} in farebox.toml): {words}"


def resolve_passphrase(settings: Settings, ask: Callable[[], str] | None) -> str:
    """The passphrase from environment, file, or `ask` (None when there is no terminal).

    Raises PassphraseMissing; there is no default.
    """
    if settings.passphrase is not None:
        passphrase = settings.passphrase.get_secret_value()
    elif settings.passphrase_file is not None:
        passphrase = _read_passphrase(_of_home("passphrase_file", settings.passphrase_file))
    elif ask is not None:
        passphrase = ask()
    else:
        raise PassphraseMissing(
            "No passphrase was given. Set FAREBOX_PASSPHRASE_FILE to a file that only you can"
            " read, or FAREBOX_PASSPHRASE, or run this on a terminal to be asked."
        )
    if not passphrase:
        raise PassphraseMissing("The passphrase is empty. The wallet needs one to be opened.")
    return passphrase


def _read_passphrase(path: Path) -> str:
    try:
        return path.read_text().rstrip("\r\n")
    except OSError as error:
        raise PassphraseMissing(
            f"The passphrase file {path} cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError:
        raise PassphraseMissing(f"The passphrase file {path} is no text in UTF-8.") from None
