"""Sealed stores: made once, unit by unit, then sealed; the logit store and the frame store.

::

    <root>/identity.json                  what the content depends on, and how it is cut into files
    <root>/journal/unit-000012.parquet    one fragment a finished unit, while the stage runs
    <root>/...                            the sealed content, gathered from the journal
    <root>/seal.json                      every file with size and sha256, and the root digest

All files are created, never replaced, and their bytes depend on the identity and the layout alone.
So a retried task finds its own bytes in place, two jobs at once write one store, and equal stores
have equal root digests, on any machine, on any number of workers and after any number of kills.
"""
