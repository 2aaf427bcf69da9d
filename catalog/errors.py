"""What can be wrong with the catalog.

CatalogError
├── ListingInvalid    a field that cannot be accepted; `field` names it
├── ListingExists     the name in URLs is taken
├── ListingUnknown    there is no such listing, draft or sample
├── SampleInvalid     a sample cannot be requested or kept like this
├── AddressInvalid    an address that cannot be added; its `field` is url
├── PeerInvalid       a field of a peer that cannot be accepted; `field` names it
├── PeerExists        the peer is in the list already
└── PeerUnknown       there is no such peer
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


class SampleInvalid(CatalogError):
    code = "sample_invalid"
    field = "samples"


class AddressInvalid(CatalogError):
    """Nothing that could be bought was found at an address; the text says why."""

    code = "address_invalid"
    field = "url"


class PeerInvalid(CatalogError):
    """One field is not acceptable; the text says what to mend."""

    code = "peer_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class PeerExists(CatalogError):
    code = "peer_exists"
    field = "url"


class PeerUnknown(CatalogError):
    code = "peer_unknown"


class UpstreamFailed(CatalogError):
    code = "upstream_failed"


class DraftIncomplete(CatalogError):
    code = "draft_incomplete"
