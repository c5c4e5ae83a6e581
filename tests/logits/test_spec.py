"""Fingerprints change with all that decides a logit, and only that; units cover every cell once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import Manifest, VideoRecord, build_manifest
from pipeline.errors import ConfigError
from pipeline.logits.spec import (
    MAX_CLIPS,
    MIN_CLIPS,
    StoreSpec,
    build_identity,
    choose_unit,
    plan_shards,
    plan_store,
    plan_units,
)
from pipeline.storage.sealed.identity import differences, fingerprint

LEAVES = st.sampled_from([None, True, 0, 1, 1.0, 0.08, "", "nothing", "1"])
SIZES = st.integers(1, 40)
KEYS = st.sampled_from("abc")
PARTS = st.dictionaries(KEYS, LEAVES, max_size=3)
IDENTITIES = st.dictionaries(KEYS, LEAVES | PARTS, max_size=3)


def example_config(**sections: dict[str, object]) -> ExperimentConfig:
    dataset = {"name": "toy", "root": "/videos", "layout": "folders", "num_classes": 2}
    return ExperimentConfig.model_validate({"artefacts": "/a", "dataset": dataset} | sections)


def example_manifest(sha256: str = "00", classes: tuple[str, ...] = ("jump", "run")) -> Manifest:
    return build_manifest("toy", classes, [VideoRecord("v", "v.avi", 0, "train", sha256=sha256)])


def identity_of(config: ExperimentConfig, manifest: Manifest | None = None) -> dict[str, object]:
    return build_identity(config, manifest=manifest or example_manifest(), teacher_digest="ab")


def another(value: object) -> object:
    """Another value that a setting of the views may have."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else (value + 0.9) / 2


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("views", key, another(value)) for key, value in ViewsConfig() if key != "mix"]
    + [("clip", "num_frames", 16), ("clip", "side", 112)]
    + [("teacher", "variant", "tiny"), ("teacher", "embed_dim", 32)]
    + [("teacher", "depths", (1, 1, 1, 1)), ("teacher", "precision", "bfloat16")],
)
def test_settings_that_decide_a_logit_are_named(section, key, value):
    before, after = (
        identity_of(example_config()),
        identity_of(example_config(**{section: {key: value}})),
    )
    assert fingerprint(before) != fingerprint(after)
    assert list(differences(before, after)) == [f"{section}.{key}"]


def test_mixing_is_named_setting_by_setting():
    plain, mixed, other = (
        identity_of(example_config(views={"mix": mix}))
        for mix in (None, {"group_size": 32}, {"group_size": 16})
    )
    assert "mix" not in plain["views"], "identities are older than mixing"
    assert len(list(differences(plain, mixed))) == 5
    assert list(differences(mixed, other)) == ["views.mix.group_size"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("cluster", "teacher_batch_size", 2),
        ("cluster", "num_teachers", 3),
        ("cluster", "teacher_threads", 2),
        ("store", "uri", "/elsewhere"),
        ("store", "format", "parquet"),
        ("store", "clips_per_unit", 8),
        ("store", "clips_per_unit", "auto"),
        ("cluster", "num_decoders", "auto"),
        ("store", "units_per_shard", 8),
        ("teacher", "weights", "/elsewhere.safetensors"),
        ("student", "variant", "tiny"),
        ("loss", "temperature", 2.0),
        ("train", "batch_size", 2),
        ("frames", "quality", 50),  # of frames that are not used
        ("evaluate", "batch_size", 2),
    ],
)
def test_other_settings_leave_the_fingerprint(section, key, value):
    changed = example_config(**{section: {key: value}})
    assert fingerprint(identity_of(changed)) == fingerprint(identity_of(example_config()))


def test_videos_classes_and_weights_are_part_of_it():
    config = example_config()
    before = identity_of(config)
    assert list(differences(before, identity_of(config, example_manifest("11")))) == [
        "dataset.manifest_digest"
    ]
    assert list(
        differences(before, identity_of(config, example_manifest("00", ("run", "jump"))))
    ) == ["dataset.class_names_sha256", "dataset.manifest_digest"]
    other = build_identity(config, manifest=example_manifest(), teacher_digest="cd")
    assert differences(before, other) == {"teacher.weights_sha256": ("ab", "cd")}


def test_prepared_frames_are_part_of_it_by_name():
    videos = identity_of(example_config())
    prepared, other = (
        identity_of(example_config(frames={"source": "prepared", "quality": quality}))
        for quality in (90, 80)
    )
    assert {"frames.quality", "frames.num_candidates"} <= differences(videos, prepared).keys()
    assert differences(prepared, other) == {"frames.quality": (90, 80)}


def test_differences_show_what_one_side_lacks():
    store, config = {"views": {"num_views": 4, "seed": 0}}, {"views": {"num_views": 4.0}, "x": 1}
    assert differences(store, config) == {
        "views.num_views": (4, 4.0),
        "views.seed": (0, "nothing"),
        "x": ("nothing", 1),
    }


@given(IDENTITIES, IDENTITIES)
def test_differences_are_empty_exactly_when_fingerprints_agree(first, second):
    assert (not differences(first, second)) == (fingerprint(first) == fingerprint(second))
    assert not differences(first, json.loads(json.dumps(first)))


def test_golden_fingerprint():
    # printf '{"a":{"c":"\\u00e9","d":true},"b":[1,0.08,null]}' | sha256sum
    expected = "d7da3a243c69e087b4786a40e6d7197593f33bbff5dbd53d9441dcea3da42bb4"
    assert fingerprint({"b": [1, 0.08, None], "a": {"c": "é", "d": True}}) == expected
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"views": {"min_area": float("nan")}})


@given(st.lists(st.sampled_from(["train", "val", "test"]), min_size=1), SIZES, SIZES, SIZES)
def test_plans_cover_every_wanted_cell_once(splits, num_views, clips_per_unit, units_per_shard):
    records = [VideoRecord(f"{n}", f"{n}", 0, split) for n, split in enumerate(splits)]
    spec = StoreSpec(
        identity={},
        class_names=("a", "b"),
        num_rows=len(records),
        num_frames=2,
        view_indices=(*range(num_views), -1),
        format="zarr",
        clips_per_unit=clips_per_unit,
        units_per_shard=units_per_shard,
    )
    units = plan_units(spec, records)
    shards = plan_shards(spec, units)
    assert [pair for unit in units for pair in unit.coordinates] == [
        (row, view)
        for row, split in enumerate(splits)
        for view in (range(num_views) if split == "train" else (-1,))
    ]
    assert (len(units), len(shards)) == (spec.num_units, spec.num_shards)
    assert [unit for shard in shards for unit in shard.units] == units
    assert [shard.rows for shard in shards] == [spec.shard_rows(s.number) for s in shards]
    assert all(len(unit.coordinates) <= max(clips_per_unit, num_views) for unit in units)


def test_shards_that_are_too_large_are_refused():
    many = replace(example_manifest(), class_names=tuple(str(number) for number in range(10**5)))
    many = replace(many, records=many.records * 100)
    with pytest.raises(ConfigError, match=r"store\.units_per_shard"):
        plan_store(example_config(), manifest=many, teacher_digest="ab")


@given(
    st.integers(1, 200),
    st.sampled_from([1, 16, 32]) | st.none(),
    st.integers(2, 1000),
    st.integers(1, 3000),
    st.sampled_from([(4, 32), (8, 224), (32, 320)]),
    st.booleans(),
)
def test_a_chosen_unit_is_of_whole_groups_and_within_bounds(
    num_views, group_size, num_classes, num_videos, shape, use_gpu
):
    mix = None if group_size in (None, 1) else {"group_size": group_size}
    config = example_config(
        views={"num_views": num_views, "mix": mix},
        clip=dict(zip(("num_frames", "side"), shape, strict=True)),
        store={"clips_per_unit": "auto"},
        cluster={"use_gpu": use_gpu},
    )
    one = example_manifest(classes=tuple(map(str, range(num_classes))))
    manifest = replace(one, records=one.records * num_videos)
    unit, whole = (
        choose_unit(config, manifest),
        num_views * (mix or {"group_size": 1})["group_size"],
    )
    assert unit % whole == 0
    assert MIN_CLIPS <= unit < max(MAX_CLIPS + 1, MIN_CLIPS + whole)
    if unit >= MIN_CLIPS + whole:  # then no bound made it as small as it may be
        assert unit * shape[0] * shape[1] ** 2 * 3 <= (128e6 if use_gpu else 64e6)
        assert num_videos * num_views >= 256 * unit
