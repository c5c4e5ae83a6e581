"""The one door to pixels (``source``): video files, and the frame store of prepared frames.

The frame store holds a few candidate frames of every video, shrunk once, as JPEGs in large files
(``docs/formats.md``). ``pipeline.stages.prepare`` makes it; later stages start from its manifest.
"""
