"""A student as a file for other runtimes.

Each format is a module with ``write_files``, ``load`` and ``read_metadata``.
"""
