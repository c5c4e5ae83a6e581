"""Parts that the logit store and the frame store share: identity, journal, seal, garbage."""
