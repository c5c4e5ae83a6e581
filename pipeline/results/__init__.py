"""What a trained network is worth: evaluation, prediction, costs, figures, tables, files."""
