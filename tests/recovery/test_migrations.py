"""An update of the software must never cost an operator a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, Table, insert, inspect, select

from node.db.engine import open_engine
from node.db.migrations import downgrade, metadata, upgrade
from node.db.migrations.search_index import is_described


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def test_migrated_database_is_what_the_models_say(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        opts = {"compare_type": True, "include_name": is_described}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata()) == []


def test_migrated_database_has_the_checks_of_the_models(migrated_engine: Engine) -> None:
    """On SQLite, which keeps their words; PostgreSQL writes them anew."""
    for table in metadata().tables.values():
        declared = {str(c.sqltext) for c in table.constraints if hasattr(c, "sqltext")}
        found = {
            check["sqltext"] for check in inspect(migrated_engine).get_check_constraints(table.name)
        }
        assert found == declared, table.name


def test_starting_twice_keeps_every_row(engine: Engine) -> None:
    upgrade(engine)
    before = _fill(engine)
    upgrade(engine)
    assert _rows(engine) == before


def test_a_filled_database_goes_back_and_forth(engine: Engine) -> None:
    upgrade(engine)
    _fill(engine)
    downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    upgrade(engine)
    assert _fill(engine)


def _fill(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.begin() as connection:
        for table in metadata().sorted_tables:
            connection.execute(insert(table), _row(table))
    return _rows(engine)


def _row(table: Table) -> dict[str, Any]:
    """A row with every column set, within every check."""
    values: dict[type, Any] = {int: 1, str: "x", bytes: b"x", bool: True}
    types = {column.name: getattr(column.type, "impl", column.type) for column in table.columns}
    row = {name: values[type_.python_type] for name, type_ in types.items()}
    return row | dict.fromkeys({"ends_at"} & row.keys(), 2)  # after it began


def _rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            name: [tuple(row) for row in connection.execute(select(table))]
            for name, table in tables.tables.items()
        }
