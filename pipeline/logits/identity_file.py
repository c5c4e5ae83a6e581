"""The spec of a logit store as it stands in its ``identity.json``."""

from __future__ import annotations

from pipeline.errors import StoreCorrupt
from pipeline.logits.identity import SCHEMA_VERSION
from pipeline.logits.layout import StoreSpec
from pipeline.storage.sealed.identity import decode_identity, encode_identity


def encode_spec(spec: StoreSpec) -> bytes:
    """Encode a spec for people and for ``decode_spec``."""
    return encode_identity(spec.identity, spec.layout)


def decode_spec(content: bytes, *, uri: str) -> StoreSpec:
    """Decode a spec.

    Raises:
        FingerprintMismatch: if it has the schema of another version of this program.
        StoreCorrupt: if it is not exactly what ``encode_spec`` writes.

    """
    identity, layout = decode_identity(content, uri=uri, schema_version=SCHEMA_VERSION)
    try:
        tuples = {name: tuple(layout[name]) for name in ("class_names", "view_indices")}
        return StoreSpec(identity=identity, **{**layout, **tuples})
    except (TypeError, KeyError) as error:
        raise StoreCorrupt(uri, expected="the layout of a store", found=repr(error)) from error
