"""`python -m finance.chain.devchain`: the development chain as a process of its own."""

import argparse

from finance.chain.devchain.server import serve


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="farebox devchain", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8545, help="0 takes a free one")
    parser.add_argument("--chain-id", type=int, default=31337)
    parser.add_argument("--block-seconds", type=float, help="default: a block per transaction")
    parser.add_argument("--accounts", type=int, default=10)
    parser.add_argument("--json", action="store_true", dest="as_json")
    return parser.parse_args()


if __name__ == "__main__":
    serve(**vars(_arguments()))
