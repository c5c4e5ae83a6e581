"""The one door to pixels: video files, and the frame store of prepared frames.

The frame store holds a few candidate frames of every video, shrunk once, as JPEGs in large files.

::

    <root>/identity.json                  what the frames were made from
    <root>/journal/unit-000012.parquet    one fragment a finished unit, while the stage runs
    <root>/frames-00003.arrow             the candidates of consecutive videos
    <root>/manifest.parquet               the prepared manifest: where each video's candidates are
    <root>/seal.json                      every file with size and sha256, and the root digest

``pipeline.stages.prepare`` makes it. Later stages open it with ``store.open_frame_store`` and go on
from its manifest; the frames come through ``source.frames_of`` like those of any video.

What it has in common with the logit store is in :mod:`pipeline.storage.sealed`.
"""
