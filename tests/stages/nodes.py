"""A cluster on this machine: a head that works nothing itself, and a raylet for each node."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NODE = {"num_cpus": 2, "object_store_memory": 100_000_000}
SETTINGS = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def running_cluster(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_nodes: int,
    env: Mapping[str, str] | None = None,
) -> Iterator[Any]:
    """Start a head and nodes; ``env`` is that of their processes."""
    (tmp_path / "token").write_text("t" * 64)
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    for name, value in {**(env or {}), **SETTINGS, **token}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    # A folder of its own, or this cluster becomes the one that others on this machine find. Not
    # pytest's: a socket's path has 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-")
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(num_nodes):
            cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)  # its processes may still write their last lines
