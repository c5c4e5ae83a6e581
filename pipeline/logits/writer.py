"""Making a store: open it, gather its shards from the journal, seal it.

Each function may be called again after any end, and by anyone at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import StoreIncomplete
from pipeline.logits.backends import backend_of
from pipeline.logits.cells import Cells, joined, scatter
from pipeline.logits.identity_file import encode_spec
from pipeline.logits.journal import read_fragment
from pipeline.logits.layout import Shard, StoreSpec
from pipeline.storage.sealed.files import FileEntry, publish
from pipeline.storage.sealed.identity import IDENTITY_NAME, create_identity
from pipeline.storage.sealed.seal import Seal, build_seal, find_seal, write_seal


def open_for_writing(root: str, spec: StoreSpec) -> Seal | None:
    """Make sure that ``root`` is this store and no other; return its seal if it has one already.

    Raises:
        FingerprintMismatch: if there is another store at ``root``.
        StoreCorrupt: if the identity or the seal there is damaged.

    """
    create_identity(root, spec.identity, spec.layout)
    return find_seal(root)


def gather_shard(
    root: str, spec: StoreSpec, shard: Shard, records: Sequence[VideoRecord]
) -> list[FileEntry]:
    """Write one whole shard from the fragments of its units.

    Args:
        root: of the store.
        spec: of the store.
        shard: to write.
        records: of the manifest, those of the shard's rows only.

    Raises:
        StoreIncomplete: if units are not in the journal.
        StoreCorrupt: if a fragment is damaged, or a file of the shard is there and differs.

    """
    grid = scatter(
        _read_units(root, spec, shard),
        shard.rows,
        spec,
        label=[record.label for record in records],
        sample_id=[record.sample_id for record in records],
    )
    files = backend_of(spec).encode_shard(spec, shard.number, grid)
    return [publish(root, name, content) for name, content in files.items()]


def seal(
    root: str, spec: StoreSpec, entries: Iterable[FileEntry], *, provenance: Mapping[str, Any]
) -> Seal:
    """Seal a store whose shards are all gathered.

    Args:
        root: of the store.
        spec: of the store.
        entries: that ``gather_shard`` returned, of all shards in any order.
        provenance: resolved config, environment, time. Recorded, and part of no digest.

    Raises:
        StoreIncomplete: if files are not among the entries.
        StoreCorrupt: if the store is sealed already, with other files.

    """
    entries = list(entries)
    backend = backend_of(spec)
    wanted = {name for number in range(spec.num_shards) for name in backend.shard_names(number)}
    if missing := sorted(wanted - {entry.name for entry in entries}):
        raise StoreIncomplete(
            f"{root} cannot be sealed: {len(missing)} of {len(wanted)} files are not written, "
            f"{', '.join(missing[:5])} the first of them; run jobs/cache_teacher.py"
        )
    shared = backend.shared_files(spec) | {IDENTITY_NAME: encode_spec(spec)}
    entries += [publish(root, name, content) for name, content in shared.items()]
    return write_seal(root, build_seal(spec.fingerprint, entries, provenance))


def _read_units(root: str, spec: StoreSpec, shard: Shard) -> Cells:
    found, missing = [], []
    for unit in shard.units:
        try:
            found.append(read_fragment(root, spec, unit))
        except FileNotFoundError:
            missing.append(unit.number)
    if missing:
        raise StoreIncomplete(
            f"{root}: shard {shard.number} lacks the units {missing}; run jobs/cache_teacher.py"
        )
    return joined(found, spec)
