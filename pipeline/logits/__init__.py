"""The logit store: teacher logits, with what they were made from and proof that they are whole.

::

    <root>/identity.json                  what the logits depend on, and how they are cut into files
    <root>/videos.json                    which videos those were, by content
    <root>/journal/unit-000012.parquet    one fragment a finished unit, while the teacher runs
    <root>/logits.zarr/...                the sealed arrays, if the format is zarr
    <root>/logits.parquet/shard-00003.parquet               or, if the format is parquet
    <root>/seal.json                      every file with size and sha256, and the root digest
    <root>/generations/<digits>/...       the same again, of more views or videos

Stage one calls ``generations.place_generation`` and ``sealed.store.open_for_writing``,
``inheritance.inherit_units`` and ``store.gather_shard`` for every shard, ``journal.write_fragment``
for every unit and ``store.seal_logits`` once. All other stages call
``generations.open_experiment_store`` and, to train, ``mirror.open_mirror``.

What the logit store has in common with the frame store is in :mod:`pipeline.storage.sealed`.
"""
