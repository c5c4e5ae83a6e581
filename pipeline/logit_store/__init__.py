"""The logit store: teacher logits that say what they were made from, and prove that they are whole.

::

    <root>/identity.json                  what the logits depend on, and how they are cut into files
    <root>/journal/unit-000012.parquet    one fragment a finished unit, while the teacher runs
    <root>/logits.zarr/...                the sealed arrays, if the format is zarr
    <root>/logits.parquet/shard-00003.parquet               or, if the format is parquet
    <root>/seal.json                      every file with size and sha256, and the root digest

Stage one calls ``writer.open_for_writing``, ``journal.write_fragment`` for every unit,
``writer.gather_shard`` for every shard and ``writer.seal`` once. Everybody else calls
``reader.open_store`` or, to train, ``mirror.open_mirror``.

What it has in common with the frame store is in :mod:`pipeline.sealed`.
"""
