"""Plans this node buys: subscribing, renewing, and what is held.

A subscription of ours, from the order to its end (BoughtState)::

    ordered ── the seller answers ───────▶ active ── its end comes, unrenewed ──▶ grace
       │                                   │  ▲ ▲                                  │  │
       │ refused, and nothing is charged   │  │ └───────── renewed late ───────────┘  │ days of
       ▼                                   │  │ renewed                               ▼ grace over
    failed                                 │  └─────────────────────────┐           lapsed
                                           └─ cancelled ── its end ──▶ ended

An order is what is done to get a stretch of time: bought by the proxy under an
Idempotency-Key, which is the order's id (OrderState)::

    open ── the seller's answer has the subscription ──▶ done
     ├───── nothing was signed, or it can never be charged any more ──▶ failed
     └───── somebody gives it up ──▶ giving_up ── nothing can be charged any more ──▶ given_up

Its row is written before anything leaves the node. While it is open it may have been
paid; it is carried on under the same key until one of both is certain, also after a
restart, and so is paid once. One that is given up is not sent any more, nor a renewal
whose month is over; an answer that was under way makes it done all the same. A renewal
that failed goes on under the same key, too.
"""
