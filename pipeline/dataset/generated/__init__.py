"""Small data sets that are drawn, as real video files."""
