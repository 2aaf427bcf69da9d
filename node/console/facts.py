"""What does not change while a node runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The node as its pages name it; `started_at` in Unix seconds."""

    network: str
    main_network: bool
    address: str
    gateway_url: str
    started_at: int
