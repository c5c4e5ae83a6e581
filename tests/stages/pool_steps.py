"""Steps that do next to nothing, or end their process, for the tests of chains."""

import os
import time
from pathlib import Path

import pyarrow as pa


class Doubler:
    def __init__(self, marks: str) -> None:
        self._marks = Path(marks)

    def __call__(self, block: pa.Table) -> pa.Table:
        number = block["number"][0].as_py()
        mark = self._marks / f"dies-{number}"
        if mark.exists():  # a file of n bytes: so many processes end on this block
            os.truncate(mark, mark.stat().st_size - 1)
            if not mark.stat().st_size:
                mark.unlink()
            os._exit(1)
        if (self._marks / f"raises-{number}").exists():
            raise LookupError(f"block {number}")
        return pa.table({"number": [2 * number]})


class Adder:
    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"number": [block["number"][0].as_py() + 1]})


class Waiter:
    """Takes its time, and adds the node that it runs on."""

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()

    def __call__(self, block: pa.Table) -> pa.Table:
        time.sleep(0.2)
        return block.append_column("node", pa.array([self._node]))


def squared(block: pa.Table, offset: int) -> pa.Table:
    return pa.table({"number": [block["number"][0].as_py() ** 2 + offset]})


def ended(block: pa.Table) -> pa.Table:
    os._exit(1)
