"""HTTP/1.1 to other people's servers, for calls that are paid for.

Own code where a library would do, because it is half the cost of a paid call: bytes in,
bytes out, no URL objects, no cookies, no redirects, nothing decoded. It keeps what a
library keeps: TLS checked, addresses guarded, limits on heads, time-outs, backpressure.
"""
