"""From a data set's own annotations to the manifest of its videos."""
