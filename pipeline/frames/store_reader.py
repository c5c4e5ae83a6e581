"""Opening a sealed frame store: its identity, and the prepared manifest that stages go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.manifest import Manifest, decode_manifest
from pipeline.errors import StoreCorrupt, StoreIncomplete
from pipeline.frames.store_layout import MANIFEST_NAME, SCHEMA_VERSION
from pipeline.logits.identity import fingerprint
from pipeline.storage.files import join_uri
from pipeline.storage.sealed.identity import IDENTITY_NAME, check_identity, decode_identity
from pipeline.storage.sealed.seal import Seal, find_seal, read_sealed


@dataclass(frozen=True)
class FrameStore:
    """A sealed frame store; the URIs of ``manifest`` are absolute."""

    root: str
    identity: Mapping[str, Any]
    manifest: Manifest
    seal: Seal

    @property
    def root_digest(self) -> str:
        """The name of exactly these frames."""
        return self.seal.root_digest

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Refuse a store that was made from other inputs.

        Raises:
            FingerprintMismatch: naming every part that differs.

        """
        check_identity(self.root, self.identity, identity)


def open_frame_store(root: str) -> FrameStore:
    """Open a sealed frame store.

    Raises:
        StoreIncomplete: if there is no store, or it is not sealed.
        StoreCorrupt: if its seal, identity or manifest is damaged.

    """
    seal = find_seal(root)
    if seal is None:
        raise StoreIncomplete(f"no frame store is sealed at {root}; run jobs/prepare_frames.py")
    uri = join_uri(root, IDENTITY_NAME)
    content = read_sealed(root, seal, IDENTITY_NAME)
    identity, _ = decode_identity(content, uri=uri, schema_version=SCHEMA_VERSION)
    if (found := fingerprint(identity)) != seal.fingerprint:
        raise StoreCorrupt(uri, expected=seal.fingerprint, found=found)
    content = read_sealed(root, seal, MANIFEST_NAME)
    manifest = decode_manifest(content, uri=join_uri(root, MANIFEST_NAME), root=root)
    return FrameStore(root, identity, manifest, seal)
