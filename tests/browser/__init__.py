"""Stories in a browser. What a page is expected to show may take a busy machine a while."""

from playwright import async_api, sync_api

_MILLISECONDS = 30_000

sync_api.expect.set_options(timeout=_MILLISECONDS)
async_api.expect.set_options(timeout=_MILLISECONDS)
