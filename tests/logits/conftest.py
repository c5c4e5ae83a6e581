"""The example store of this folder's tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from tests.logits.imaginary import EXAMPLE, Plan


@pytest.fixture(params=["zarr", "parquet"])
def example(request: pytest.FixtureRequest) -> Plan:
    return replace(EXAMPLE, format=request.param)


@pytest.fixture
def memory_root() -> Iterator[str]:
    """In memory, which is quicker than a disk."""
    uri = f"memory://{uuid.uuid4().hex}"
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm(path, recursive=True)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    uri: str = request.getfixturevalue("memory_root")
    return uri


@pytest.fixture
def local_root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture(scope="session", params=["zarr", "parquet"])
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, str]:
    """A sealed store that tests leave as they found it."""
    plan, root = (
        replace(EXAMPLE, format=request.param),
        str(tmp_path_factory.mktemp("sealed") / "store"),
    )
    plan.write_store(root)
    return plan, root


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a sealed store, for what does not depend on its format."""
    root = str(tmp_path_factory.mktemp("parquet") / "store")
    EXAMPLE.write_store(root)
    return root
