"""What calls from the console brought, kept for a while so that their page can be reloaded."""

from __future__ import annotations

from collections import OrderedDict

from node.market.try_it import TryResult

_MOST = 40


class Results:
    """The last results of this process. A result is shown to whoever made the call only."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], TryResult] = OrderedDict()

    def keep(self, user_id: str, listing_id: str, result: TryResult) -> None:
        self._kept[user_id, listing_id, result.call_id] = result
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def get(self, user_id: str, listing_id: str, call_id: str) -> TryResult | None:
        return self._kept.get((user_id, listing_id, call_id))
