"""What the logit store and the frame store have in common: identity, journal, seal, garbage."""
