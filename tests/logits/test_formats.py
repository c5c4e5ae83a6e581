"""Other programs read the sealed store without ours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from pipeline.errors import Status
from pipeline.logits.store import open_store


def test_plain_zarr_or_pandas_reads_it(sealed):
    example, root = sealed
    grid = open_store(root).read_all()
    if example.format == "zarr":
        group = zarr.open_group(f"{root}/logits.zarr", mode="r")
        np.testing.assert_array_equal(group["logits"][:], grid.logits)
        assert group["sample_id"][:].tolist() == list(grid.sample_id)
        assert group["logits"].shards == (12, 4, 5)
        assert group["logits"].chunks == (12, 1, 5)
        assert group.attrs["view_indices"] == [0, 1, 2, -1]
        return
    frame = pd.read_parquet(f"{root}/logits.parquet")
    assert len(frame) == int((grid.status != Status.MISSING).sum())
    line = frame[(frame["row"] == 3) & (frame["view_index"] == 1)].iloc[0]
    np.testing.assert_array_equal(line["logits"], grid.logits[3, 1])
    assert (line["sample_id"], line["label"]) == (grid.sample_id[3], grid.label[3])


def test_parquet_has_only_plain_types(sealed):
    example, root = sealed
    if example.format == "parquet":
        schema = pq.read_schema(f"{root}/logits.parquet/shard-00000.parquet")
        assert not any(isinstance(field.type, pa.BaseExtensionType) for field in schema)
        assert schema.field("logits").type == pa.list_(
            pa.field("element", pa.float16(), nullable=False), 5
        )
