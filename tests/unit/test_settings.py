"""Configuration that is wrong says so in a sentence, and no secret has a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import PassphraseMissing, SettingsInvalid
from node.settings import Bind, load_settings, parse_bind, resolve_passphrase


def test_file_is_read_and_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "farebox.toml").write_text(
        'network = "devnet"\nrpc_urls = ["http://one"]\nconsole_bind = "127.0.0.1:9000"\n'
    )
    monkeypatch.setenv("FAREBOX_RPC_URLS", "http://two, http://three")
    settings = load_settings(tmp_path)
    assert settings.chain.rpc_urls == ("http://two", "http://three")
    assert settings.console == Bind("127.0.0.1", 9000)
    assert settings.database == f"sqlite:///{tmp_path}/farebox.db"


def test_networks_bring_their_own_rpc_and_devnet_its_chain_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(tmp_path).chain.caip2 == "eip155:84532"
    assert load_settings(tmp_path).chain.rpc_urls == ("https://sepolia.base.org",)
    monkeypatch.setenv("FAREBOX_NETWORK", "devnet")
    monkeypatch.setenv("FAREBOX_CHAIN_ID", "4242")
    chain = load_settings(tmp_path).chain
    assert (chain.chain_id, chain.rpc_urls) == (4242, ("http://127.0.0.1:8545",))


def test_chain_id_of_a_real_network_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAREBOX_NETWORK", "base")
    monkeypatch.setenv("FAREBOX_CHAIN_ID", "1")
    assert load_settings(tmp_path).chain.chain_id == 8453


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_BIND", "8402"),
        ("CONSOLE_BIND", "127.0.0.1:99999"),
        ("NETWORK", "mainnet"),
        ("CHAIN_ID", "x"),
        ("CHAIN_ID", "-5"),
        ("CHAIN_ID", str(2**80)),
        ("RPC_URLS", "http://one,two"),
        ("RPC_URLS", "http://one:port"),
        ("PUBLIC_URL", "api.example.com"),
        ("PUBLIC_URL", "https://api.example.com/?node=1"),
        ("CONSOLE_PUBLIC_URL", "http://farebox.example.com"),
        ("CONSOLE_PUBLIC_URL", "https://farebox.example.com:99999"),
        ("ALLOWED_HOSTS", "http://127.0.0.1:9000"),
        ("ALLOWED_HOSTS", "10.0.0.0/8"),
        ("ALLOWED_HOSTS", "127.0.0.1 127.0.0.2"),
        ("DATABASE_URL", "postgresql://farebox@db.internal/farebox"),
        ("DATABASE_URL", "farebox.db"),
        ("DATABASE_URL", "postgresql+psycopg://db.internal:port/farebox"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ],
)
def test_mistake_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FAREBOX_{name}", value)
    with pytest.raises(SettingsInvalid, match=f"FAREBOX_{name}"):
        load_settings(tmp_path)


def test_unknown_or_broken_settings_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "farebox.toml").write_text('netwrok = "base"\n')
    with pytest.raises(SettingsInvalid, match="netwrok"):
        load_settings(tmp_path)
    for broken in (b"network = base\n", 'network = "dévnet"\n'.encode("latin-1")):
        (tmp_path / "farebox.toml").write_bytes(broken)
        with pytest.raises(SettingsInvalid, match="cannot be read"):
            load_settings(tmp_path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("NETWROK", "NETWORK"), ("RPC_URL", "RPC_URLS"), ("PASSPHRASE_FIEL", "PASSPHRASE_FILE")],
)
def test_variable_that_is_nearly_a_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    """Passed over, it would leave the node on another network than was asked for."""
    monkeypatch.setenv(f"FAREBOX_{given}", "base")
    with pytest.raises(SettingsInvalid, match=f"FAREBOX_{given}; did you mean FAREBOX_{meant}"):
        load_settings(tmp_path)


def test_variables_of_others_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of commands, and of container services that are called farebox."""
    for name in ("SECRET", "KEY", "BACKUP_PASSWORD_FILE", "PORT", "SERVICE_HOST", "URL"):
        monkeypatch.setenv(f"FAREBOX_{name}", "x")
    assert load_settings(tmp_path).network == "base-sepolia"


def test_data_directory_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_DATA_DIR", "~nobody-of-this-name/farebox")
    with pytest.raises(SettingsInvalid, match="FAREBOX_DATA_DIR"):
        load_settings()


def test_a_home_directory_that_no_shell_has_written_out_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `--data-dir=~/node`, a unit of systemd, or farebox.toml."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "farebox.toml").write_text('passphrase_file = "~/secret"\n')
    (tmp_path / "secret").write_text("from file\n")
    settings = load_settings(Path("~/node"))
    assert settings.data_dir == tmp_path / "node"
    assert resolve_passphrase(settings, None) == "from file"
    with pytest.raises(SettingsInvalid, match="nobody's home"):
        load_settings(Path("~nobody-of-this-name/farebox"))


@pytest.mark.parametrize(
    ("text", "bind", "loopback"),
    [
        ("127.0.0.1:1", Bind("127.0.0.1", 1), True),
        ("[::1]:8400", Bind("::1", 8400), True),
        ("localhost:0", Bind("localhost", 0), True),
        ("0.0.0.0:8402", Bind("0.0.0.0", 8402), False),
        ("node.example:8402", Bind("node.example", 8402), False),
    ],
)
def test_binds(text: str, bind: Bind, loopback: bool) -> None:
    assert parse_bind(text) == bind
    assert str(bind) == text
    assert bind.loopback is loopback


def test_passphrase_comes_from_environment_file_or_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_passphrase(load_settings(tmp_path), lambda: "typed") == "typed"
    (tmp_path / "secret").write_text("from file\n")
    monkeypatch.setenv("FAREBOX_PASSPHRASE_FILE", str(tmp_path / "secret"))
    assert resolve_passphrase(load_settings(tmp_path), None) == "from file"
    monkeypatch.setenv("FAREBOX_PASSPHRASE", "from environment")
    settings = load_settings(tmp_path)
    assert resolve_passphrase(settings, None) == "from environment"
    assert "from environment" not in repr(settings)


def test_no_passphrase_is_never_a_default_one(tmp_path: Path) -> None:
    with pytest.raises(PassphraseMissing, match="FAREBOX_PASSPHRASE_FILE"):
        resolve_passphrase(load_settings(tmp_path), None)
    with pytest.raises(PassphraseMissing, match="empty"):
        resolve_passphrase(load_settings(tmp_path), lambda: "")


def test_missing_passphrase_file_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAREBOX_PASSPHRASE_FILE", str(tmp_path / "absent"))
    with pytest.raises(PassphraseMissing, match="absent"):
        resolve_passphrase(load_settings(tmp_path), None)


def test_passphrase_file_that_is_no_text_says_which_and_shows_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes("pässphrase".encode("latin-1"))
    monkeypatch.setenv("FAREBOX_PASSPHRASE_FILE", str(tmp_path / "secret"))
    with pytest.raises(PassphraseMissing, match="UTF-8") as found:
        resolve_passphrase(load_settings(tmp_path), None)
    assert "0xe4" not in str(found.value)
