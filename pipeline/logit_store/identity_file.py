"""``identity.json``: what a store is, written before its first unit."""

from __future__ import annotations

import json

from pipeline.errors import FingerprintMismatch, StoreCorrupt
from pipeline.fingerprint import SCHEMA_VERSION, differences
from pipeline.logit_store.layout import IDENTITY_NAME, StoreSpec
from pipeline.storage import create_bytes, join_uri, read_bytes, readable_json


def encode_spec(spec: StoreSpec) -> bytes:
    """Encode a spec for people and for ``decode_spec``."""
    return readable_json(
        {"fingerprint": spec.fingerprint, "identity": spec.identity, "layout": spec.layout}
    )


def decode_spec(content: bytes, *, uri: str) -> StoreSpec:
    """Decode a spec.

    Raises:
        FingerprintMismatch: if it has the schema of another version of this program.
        StoreCorrupt: if it is not exactly what ``encode_spec`` writes.

    """
    try:
        values = json.loads(content)
        if (version := values["identity"]["schema_version"]) != SCHEMA_VERSION:
            raise FingerprintMismatch(uri, {"schema_version": (version, SCHEMA_VERSION)})
        layout = values["layout"]
        spec = StoreSpec(
            identity=values["identity"],
            **layout
            | {
                "class_names": tuple(layout["class_names"]),
                "view_indices": tuple(layout["view_indices"]),
            },
        )
        expected = encode_spec(spec)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreCorrupt(uri, expected="the identity of a store", found=repr(error)) from error
    if content != expected:
        raise StoreCorrupt(
            uri,
            expected=f"what was written for fingerprint {spec.fingerprint}",
            found=f"fingerprint {values.get('fingerprint')}, or a file that was edited",
        )
    return spec


def create_spec(root: str, spec: StoreSpec) -> None:
    """Write the identity of a store, or find the same one there.

    Raises:
        FingerprintMismatch: if the store there is another one, or is cut otherwise.
        StoreCorrupt: if the identity there is damaged.

    """
    uri = join_uri(root, IDENTITY_NAME)
    if create_bytes(uri, encode_spec(spec)):
        return
    found = decode_spec(read_bytes(uri), uri=uri)
    differing = differences(found.identity, spec.identity) or differences(
        {"layout": found.layout}, {"layout": spec.layout}
    )
    if differing:
        raise FingerprintMismatch(root, differing)
