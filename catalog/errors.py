"""What can be wrong with the catalog.

CatalogError
├── ListingInvalid    a field that cannot be accepted; `field` names it
├── ListingExists     the name in URLs is taken
└── ListingUnknown    there is no such listing
"""

from __future__ import annotations


class CatalogError(Exception):
    """Base of every error this package raises on purpose."""

    code = "catalog_error"


class ListingInvalid(CatalogError):
    """One field is not acceptable; the text says what to mend."""

    code = "listing_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ListingExists(CatalogError):
    code = "listing_exists"


class ListingUnknown(CatalogError):
    code = "listing_unknown"
