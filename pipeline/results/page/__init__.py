"""One HTML page that says what an experiment is and what came of it."""
