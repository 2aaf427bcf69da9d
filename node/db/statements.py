"""Statements compiled once, for a writer that runs the same few thousands of times a second.

SQLAlchemy's own execution costs more than SQLite's; here it only compiles. What goes
to the driver is in the driver's own form: a tuple per row, or a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.sql.expression import Executable

Row = tuple[Any, ...] | dict[str, Any]
_MAX_KEPT = 512


class _Compiled:
    """One statement for one set of parameter names."""

    def __init__(self, statement: Executable, names: Collection[str], dialect: Dialect) -> None:
        self.statement = statement  # kept alive: the cache knows it by its identity
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(names))  # type: ignore[attr-defined]
        if compiled.literal_execute_params or compiled.post_compile_params:
            raise TypeError("A journaled statement may not have expanding parameters.")
        self.sql = str(compiled)
        self._constants = {k: v for k, v in compiled.params.items() if k not in names}
        self._order: list[str] | None = compiled.positiontup if compiled.positional else None
        self._converters = _converters(compiled, dialect)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
        """The driver's form of these parameters. Raises KeyError for a missing one."""
        if not (self._constants or self._converters) and self._order is not None:
            order = self._order
            return [tuple([row[name] for name in order]) for row in rows]
        return [self._row({**self._constants, **row}) for row in rows]

    def _row(self, values: dict[str, Any]) -> Row:
        for name, convert in self._converters.items():
            values[name] = convert(values[name])
        return values if self._order is None else tuple(values[name] for name in self._order)


def _converters(compiled: Any, dialect: Dialect) -> dict[str, Callable[[Any], Any]]:
    found = {}
    for name, parameter in compiled.binds.items():
        convert = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if convert is not None:
            found[name] = convert
    return found


class Statements:
    """The statements seen so far, compiled."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kept: dict[tuple[int, tuple[str, ...]], _Compiled] = {}

    def bind(
        self, statement: Executable, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, list[Any]]:
        """SQL and rows for the driver. All rows have the parameters `names`."""
        key = (id(statement), names)
        compiled = self._kept.get(key)
        if compiled is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            compiled = self._kept[key] = _Compiled(statement, names, self._dialect)
        return compiled.sql, compiled.rows(rows)
