"""Bar charts as SVG geometry: a bar per slot, parts stacked, a title on each, a table behind.

The drawing is stretched to its place; words stand beside it as text, so that they stay
readable on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEIGHT = 100
SLOT = 10
GAP = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One series' share of a slot: its name, tone (good, bad, info, loud) and count."""

    name: str
    tone: str
    value: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One place on the axis; `label` is the row's name in the table, `tick` below the bar
    (empty for most), parts from the ground up."""

    label: str
    tick: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.value for part in self.parts)

    @property
    def title(self) -> str:
        """What hovering says: `14:00, 12 ok, 3 errors`."""
        return ", ".join([self.label, *(f"{part.value:,} {part.name}" for part in self.parts)])


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle in the units of the view box."""

    x: int
    y: float
    width: int
    height: float
    tone: str


@dataclass(frozen=True, slots=True)
class Column:
    """A slot as drawn: its bars, and the field over its whole height that carries the title."""

    x: int
    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """What `ui.chart` draws."""

    caption: str
    width: int
    height: int
    slot_width: int
    columns: tuple[Column, ...]
    slots: tuple[Slot, ...]
    names: tuple[str, ...]
    tones: tuple[str, ...]
    top: str

    @property
    def empty(self) -> bool:
        return not any(slot.total for slot in self.slots)


def bars(caption: str, slots: Sequence[Slot]) -> Chart:
    """Scale to the highest slot; a part that is not zero is at least a hair high."""
    highest = max((slot.total for slot in slots), default=0)
    columns = tuple(_column(number, slot, max(highest, 1)) for number, slot in enumerate(slots))
    first = slots[0].parts if slots else ()
    return Chart(
        caption,
        SLOT * len(slots),
        HEIGHT,
        SLOT,
        columns,
        tuple(slots),
        tuple(part.name for part in first),
        tuple(part.tone for part in first),
        f"{highest:,}",
    )


def _column(number: int, slot: Slot, highest: int) -> Column:
    drawn, ground = [], float(HEIGHT)
    for part in slot.parts:
        if part.value:
            height = max(round(part.value * HEIGHT / highest, 2), 1.0)
            ground = max(ground - height, 0.0)
            drawn.append(
                Bar(number * SLOT + GAP // 2, round(ground, 2), SLOT - GAP, height, part.tone)
            )
    return Column(number * SLOT, slot.title, tuple(drawn))
