"""Average several teachers: make a store of the mean of their probabilities.

    python jobs/blend_stores.py artefacts/a/store artefacts/b/store --weights 0.5 0.5 --out blend

The stores differ in the teacher and in nothing else: same manifest, views and clips. Train from the
blend with any of their configs and store.uri=blend. After a kill the same command goes on.
"""

from __future__ import annotations

import argparse

from pipeline.stages.command_line import run_tool


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="+", help="URIs of sealed logit stores")
    parser.add_argument("--weights", nargs="+", type=float, required=True, help="one a store")
    parser.add_argument("--out", required=True, metavar="URI", help="where the blend goes")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipeline.logits.blend import run_blend
    from pipeline.storage.files import absolute_uri

    roots = [absolute_uri(root) for root in arguments.stores]
    store = run_blend(roots, arguments.weights, absolute_uri(arguments.out))
    print(f"sealed: {store.root}\n  root digest {store.root_digest}")


if __name__ == "__main__":
    run_tool(main, parse())
