"""Generations: stores at one root that share cells and differ in how many videos and views.

::

    <root>/identity.json, journal/, ...             the first generation
    <root>/generations/<fingerprint[:16]>/...       every other one, a whole store of its own

A cell depends on its video, on its view and on what all generations have in common
(``cell_identity``); which videos and how many views there are is the extent. A config names one
generation, by its fingerprint, and never "the newest": growing a store changes nothing for students
that learnt from it before. A generation holds all its cells itself, so it is the same store, with
the same root digest, as one made at once at another root, and does not need the others.

Videos are compared by their content, which ``videos.json`` lists beside the identity: its sha256 is
the manifest digest in the identity, so the seal need not name it.

All functions raise FingerprintMismatch for a store of another version of this program, and
StoreCorrupt for a damaged identity, seal or list of videos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.manifest import Manifest, VideoRecord, decode_digested
from pipeline.errors import FingerprintMismatch, StoreCorrupt, StoreIncomplete
from pipeline.frames.source import read_source
from pipeline.logits.journal import inherited_name
from pipeline.logits.shards import PARQUET_FOLDER, ZARR_FOLDER, shard_names, shared_files
from pipeline.logits.spec import StoreSpec, build_identity, cell_identity, decode_spec
from pipeline.logits.store import LogitStore
from pipeline.logits.store import open_store as open_root
from pipeline.storage.files import join_uri, list_files, list_names, read_bytes, sha256_of
from pipeline.storage.sealed.garbage import Garbage, judge
from pipeline.storage.sealed.identity import IDENTITY_NAME, differences, fingerprint, read_identity
from pipeline.storage.sealed.store import JOURNAL_NAME, SEAL_NAME, fragment_name, publish

GENERATIONS = "generations"
VIDEOS_NAME = "videos.json"
_NAME = re.compile(r"[0-9a-f]{16}")
CONTENT = ("sample_id", "num_frames", "width", "height", "sha256", "status")
OUR_FOLDERS = (f"{JOURNAL_NAME}/", f"{ZARR_FOLDER}/", f"{PARQUET_FOLDER}/")
MAX_NAMED = 10  # videos in a refusal; the count is always whole


def open_store(store: str | ExperimentConfig) -> LogitStore:
    """Open a sealed store by its URI, or that of an experiment by its YAML file or its config.

    StoreIncomplete if there is no store, or it is not sealed; StoreCorrupt if it is damaged;
    FingerprintMismatch if it is not the experiment's.
    """
    if isinstance(store, str) and store.endswith((".yaml", ".yml")):
        store = load_config(store)
    if isinstance(store, str):
        return open_root(store)
    return open_experiment_store(store, read_source(store))


def open_experiment_store(
    config: ExperimentConfig, manifest: Manifest, *, teacher_digest: str | None = None
) -> LogitStore:
    """Open the sealed store that an experiment names.

    Without ``teacher_digest`` the teacher's weights are not compared, and of a blend nothing of its
    teachers. Raises StoreIncomplete if there is no store, or it is not sealed; FingerprintMismatch
    if it was made from another config, manifest or teacher.
    """
    there = read_spec(config.store_uri)
    digest = teacher_digest or there.teacher_digest
    identity = build_identity(config, manifest=manifest, teacher_digest=digest)
    if there.blended:  # no config names several teachers
        identity["teacher"] = there.identity["teacher"]
    return open_root(find_generation(config.store_uri, identity))


def find_generation(root: str, identity: Mapping[str, Any]) -> str:
    """Return the URI of the generation that has an identity, sealed or not.

    StoreIncomplete if there is no store at ``root``; FingerprintMismatch if none of its generations
    has this identity, with the differences from the first one.
    """
    first = read_spec(root)
    if first.fingerprint == fingerprint(identity):
        return root
    if cell_identity(first.identity) == cell_identity(identity):
        home = _home(root, fingerprint(identity))
        if find_spec(home) is not None:
            return home
    raise FingerprintMismatch(root, differences(first.identity, identity))


def place_generation(root: str, spec: StoreSpec, manifest: Manifest) -> str:
    """Return the URI at which a store is to be made: ``root``, or below a root that is taken.

    FingerprintMismatch if it holds other cells than the first generation, or not all of its views
    and good videos.
    """
    first = find_spec(root)
    if first is None or first.fingerprint == spec.fingerprint:
        return root
    if differing := _shrunk(root, first, spec, manifest):
        raise FingerprintMismatch(root, differing)
    return _home(root, spec.fingerprint)


def keep_unit(root: str, home: str, spec: StoreSpec) -> StoreSpec:
    """Return a spec cut into the units of the generation at ``home`` or, if none, the first one."""
    there = find_spec(home) or find_spec(root)
    return spec if there is None else replace(spec, clips_per_unit=there.clips_per_unit)


def list_generations(root: str) -> list[str]:
    """List the URIs at which there may be a generation, the first one first."""
    names = filter(_NAME.fullmatch, list_names(join_uri(root, GENERATIONS)))
    return [root, *(join_uri(root, GENERATIONS, name) for name in names)]


def record_videos(home: str, manifest: Manifest) -> None:
    """Write beside a generation's identity which videos it is made from."""
    publish(home, VIDEOS_NAME, manifest.digested)


def find_videos(home: str, spec: StoreSpec) -> Manifest | None:
    """Read which videos a generation was made from; None if it does not say."""
    uri = join_uri(home, VIDEOS_NAME)
    try:
        content = read_bytes(uri)
    except FileNotFoundError:  # made by a version without generations
        return None
    expected = spec.identity["dataset"]["manifest_digest"]
    if (found := sha256_of(content)) != expected:
        raise StoreCorrupt(uri, expected=f"sha256 {expected}", found=f"sha256 {found}")
    return decode_digested(content)


def content_of(record: VideoRecord) -> dict[str, Any]:
    """Return the facts of a video that its cells depend on; labels and splits may be corrected."""
    return {name: getattr(record, name) for name in CONTENT}


def find_spec(home: str) -> StoreSpec | None:
    """Read the spec of a generation, sealed or not; None if there is none."""
    try:
        return decode_spec(read_identity(home), join_uri(home, IDENTITY_NAME))
    except FileNotFoundError:
        return None


def read_spec(home: str) -> StoreSpec:
    """Read the spec of a generation, sealed or not; StoreIncomplete if there is none."""
    spec = find_spec(home)
    if spec is None:
        raise StoreIncomplete(f"there is no logit store at {home}; run jobs/cache_teacher.py")
    return spec


def own_names(spec: StoreSpec) -> set[str]:
    """Return every name that a file of a store may have, below its root."""
    shards = (name for number in range(spec.num_shards) for name in shard_names(spec, number))
    units = range(spec.num_units)
    journal = (name(unit) for unit in units for name in (fragment_name, inherited_name))
    fixed = (IDENTITY_NAME, VIDEOS_NAME, SEAL_NAME)
    return {*fixed, *shared_files(spec), *shards, *journal}


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a store in all its generations; nothing, if there is none.

    Files younger than ``written_before``, in seconds since 1970, are not touched. ``journals``
    includes the journals of generations that were sealed before that.
    """
    if find_spec(root) is None:
        return []  # the folder is not ours
    garbage = []
    for home in list_generations(root):
        spec = find_spec(home)  # None if it was given up before its first unit
        own = set() if spec is None else own_names(spec)
        files = [file for file in list_files(home) if not file.name.startswith(f"{GENERATIONS}/")]
        garbage += judge(
            home, files, own, OUR_FOLDERS, written_before=written_before, journals=journals
        )
    return garbage


def _home(root: str, fingerprint_: str) -> str:
    return join_uri(root, GENERATIONS, fingerprint_[:16])


def _shrunk(
    root: str, first: StoreSpec, spec: StoreSpec, manifest: Manifest
) -> dict[str, tuple[object, object]]:
    """Return the differences because of which ``spec`` is no larger form of the first store."""
    theirs, ours = first.identity, spec.identity
    if cell_identity(theirs) != cell_identity(ours):
        return differences(cell_identity(theirs), cell_identity(ours))
    if theirs["views"]["num_views"] > ours["views"]["num_views"]:
        return differences({"views": theirs["views"]}, {"views": ours["views"]})
    if theirs["dataset"] == ours["dataset"]:
        return {}
    before = find_videos(root, first)
    if before is None:
        return differences({"dataset": theirs["dataset"]}, {"dataset": ours["dataset"]})
    return _lost_videos(before, manifest)


def _lost_videos(before: Manifest, now: Manifest) -> dict[str, tuple[object, object]]:
    """Return the good videos that are gone or changed; a bad one may have been repaired."""
    there = {f"video {r.sample_id}": content_of(r) for r in before.records if r.good}
    here = {f"video {r.sample_id}": content_of(r) for r in now.records}
    lost = [name for name, facts in there.items() if here.get(name) != facts]
    if not lost:
        return {}
    first = lost[:MAX_NAMED]
    named = differences(
        {name: there[name] for name in first}, {name: here.get(name, "not there") for name in first}
    )
    count = f"{len(lost)} of them changed or gone"
    return named | {"dataset.videos": (f"{len(there)} good videos", count)}
