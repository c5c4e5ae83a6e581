"""Measurement of trained networks: evaluation, prediction, costs, figures, tables, files."""
