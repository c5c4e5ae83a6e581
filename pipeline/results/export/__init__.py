"""A student as a file for other runtimes: a module a format, with ``write_files`` and ``load``."""
