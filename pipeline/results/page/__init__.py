"""One HTML page about an experiment and its results."""
