"""Units and shards cover every wanted cell once, whatever the sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import ConfigError
from pipeline.logits.layout import StoreSpec, plan_shards, plan_units

SIZES = st.integers(1, 40)


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


def test_shards_that_are_too_large_are_refused(example):
    manifest = example.manifest
    many = replace(manifest, class_names=tuple(str(number) for number in range(200_000)))
    large = replace(example, format="zarr")
    object.__setattr__(large, "manifest", many)
    with pytest.raises(ConfigError, match=r"store\.units_per_shard"):
        large.spec_of(store={"units_per_shard": 9, "clips_per_unit": 9})
