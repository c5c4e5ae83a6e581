"""MLflow (only here), progress and provenance."""
