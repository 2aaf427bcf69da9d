"""The API that the demo sells: made-up weather that is the same for whoever asks.

Pure, so that the demo can tell a right answer from a wrong one.
"""

from __future__ import annotations

import hashlib
from typing import Any

CITIES = ("amsterdam", "bogota", "cairo", "dakar", "lisbon", "nairobi", "osaka", "quito")
SKIES = ("clear", "cloudy", "rain", "storm", "fog")

PRICE = "0.001"
ROUTE_PRICES = ("GET /forecast/{city}=0.001", "GET /history/{city}=0.002", "GET /cities=0")


def forecast(city: str, day: int) -> dict[str, Any]:
    """The weather of `city` in `day` days: temperature in tenths of a degree Celsius."""
    digest = hashlib.sha256(f"{city}:{day}".encode()).digest()
    return {
        "city": city,
        "day": day,
        "temperature_tenths": int.from_bytes(digest[:2]) % 500 - 100,
        "wind_kmh": digest[2] % 90,
        "sky": SKIES[digest[3] % len(SKIES)],
    }


def history(city: str, days: int) -> dict[str, Any]:
    """The weather of the last `days` days, newest first."""
    return {"city": city, "days": [forecast(city, -day) for day in range(1, days + 1)]}


def openapi() -> dict[str, Any]:
    """The API's own description."""
    city = {"name": "city", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Weather", "version": "1.0.0", "description": "Made-up weather."},
        "paths": {
            "/cities": {"get": _operation("The cities that have weather.", [])},
            "/forecast/{city}": {"get": _operation("One day's weather.", [city, _count("day")])},
            "/history/{city}": {"get": _operation("Past days' weather.", [city, _count("days")])},
        },
    }


def _operation(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {}}}},
    }


def _count(name: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": 30, "default": 1}
    return {"name": name, "in": "query", "required": False, "schema": schema}
