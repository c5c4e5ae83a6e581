"""A student as a file for other runtimes: one module a format, and what is measured of each."""
