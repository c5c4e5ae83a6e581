"""The identity of a store, written to ``identity.json`` before its first unit.

The identity decides the content and is fingerprinted. The layout shapes files and not content; but
units of two sizes must not mix in one journal, so it is compared as well before anything is added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import FingerprintMismatch, StoreCorrupt
from pipeline.storage.files import join_uri, parse_json, read_parsed, readable_json, sha256_of

IDENTITY_NAME = "identity.json"

Facts = Mapping[str, Any]  # plain JSON values


def encode_identity(identity: Facts, layout: Facts) -> bytes:
    """Encode identity and layout for people and for ``decode_identity``."""
    return readable_json(
        {"fingerprint": fingerprint(identity), "identity": identity, "layout": layout}
    )


def decode_identity(content: bytes, *, uri: str, schema_version: int) -> tuple[Facts, Facts]:
    """Decode identity and layout.

    FingerprintMismatch if it has the schema of another version of this program; StoreCorrupt if it
    is not exactly what ``encode_identity`` writes.
    """
    try:
        values = parse_json(content)
        if (version := values["identity"]["schema_version"]) != schema_version:
            raise FingerprintMismatch(uri, {"schema_version": (version, schema_version)})
        identity, layout = values["identity"], values["layout"]
        expected = encode_identity(identity, layout)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreCorrupt(uri, expected="the identity of a store", found=repr(error)) from error
    if content != expected:
        raise StoreCorrupt(
            uri,
            expected=f"what was written for fingerprint {fingerprint(identity)}",
            found=f"fingerprint {values.get('fingerprint')}, or a file that was edited",
        )
    return identity, layout


def read_identity(root: str) -> bytes:
    """Read the identity of a store that may not be sealed yet, for ``decode_identity``.

    FileNotFoundError if there is none; StoreCorrupt if it is far too large.
    """
    uri = join_uri(root, IDENTITY_NAME)
    try:
        return read_parsed(uri)
    except ValueError as error:
        raise StoreCorrupt(uri, expected="the identity of a store", found=str(error)) from error


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of an identity, in hexadecimal; ValueError if it holds NaN or infinity."""
    return sha256_of(canonical_json(identity))


def canonical_json(value: Any) -> bytes:
    """Encode ``value`` in the one way that is digested: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def differences(
    store_identity: Mapping[str, Any], config_identity: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """Map the dotted key of every part that differs to its value in the store and in the config.

    A part that one side lacks is shown as "nothing". The result is empty exactly when the
    fingerprints are equal.
    """
    store, config = dict(_leaves(store_identity)), dict(_leaves(config_identity))
    # As they are digested, because in a fingerprint 1, 1.0 and true are three values.
    ours, theirs = ({k: canonical_json(v) for k, v in part.items()} for part in (store, config))
    return {
        key: (store.get(key, "nothing"), config.get(key, "nothing"))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


def _leaves(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
