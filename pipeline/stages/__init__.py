"""The stages, one module each. Ray lives here and only here."""
