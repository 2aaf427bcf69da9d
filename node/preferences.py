"""What operators change while the node runs: one row per group of choices, as JSON.

A group is a frozen struct whose defaults hold until somebody changes it::

    class Thresholds(Preference, tag="thresholds"):
        low_usdc_atoms: int = 1_000_000

    read_preference(engine, Thresholds)
    change_preference(engine, Thresholds(low_usdc_atoms=5), actor, now)

Fields that hold secrets end in `_sealed` and hold text sealed under the wallet's key.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import BigInteger, Connection, Engine, Text, delete, func, insert, select
from sqlmodel import Field, SQLModel, col

from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.db.locks import number_in_turn


class PreferenceRow(SQLModel, table=True):
    """One group of choices."""

    __tablename__ = "preference"

    name: str = Field(primary_key=True)
    value: str = Field(sa_type=Text, description="JSON object")
    version: int = Field(
        default=0, sa_type=BigInteger, description="grows with every change of any group"
    )


class Preference(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of every group; the tag is its name in the database."""


P = TypeVar("P", bound=Preference)


def read_preference(source: Engine | Connection, kind: type[P]) -> P:
    """The group as it stands; its defaults when nobody changed it (blocking)."""
    statement = select(col(PreferenceRow.value)).where(col(PreferenceRow.name) == _name(kind))
    if isinstance(source, Connection):
        text = source.scalar(statement)
    else:
        with source.connect() as connection:
            text = connection.scalar(statement)
    return kind() if text is None else msgspec.json.decode(text, type=kind)


def change_preference(engine: Engine, value: Preference, actor: Actor, now: int) -> None:
    """Store a group and its audit entry in one transaction (blocking)."""
    with writer(engine).begin() as connection:
        store_preference(connection, value, actor, now)


def store_preference(connection: Connection, value: Preference, actor: Actor, now: int) -> None:
    """The same, inside the caller's transaction."""
    number_in_turn(connection)
    kind, name = type(value), _name(type(value))
    before = read_preference(connection, kind)
    if before == value:
        return
    version = (connection.scalar(select(func.max(col(PreferenceRow.version)))) or 0) + 1
    connection.execute(delete(PreferenceRow).where(col(PreferenceRow.name) == name))
    row = {"name": name, "value": msgspec.json.encode(value).decode(), "version": version}
    connection.execute(insert(PreferenceRow), row)
    record(connection, actor, "preference.change", name, now, _shown(before), _shown(value))


def preferences_version(connection: Connection) -> int:
    """Differs whenever any group was changed."""
    return connection.scalar(select(func.max(col(PreferenceRow.version)))) or 0


def _name(kind: type[Preference]) -> str:
    return str(kind.__struct_config__.tag)


def _shown(value: Preference) -> dict[str, Any]:
    """The group without its secrets."""
    fields = cast(dict[str, Any], msgspec.to_builtins(value))
    return {
        name: ("set" if content else "none") if name.endswith("_sealed") else content
        for name, content in fields.items()
        if name != "type"
    }
