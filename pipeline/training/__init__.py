"""Stage two without Ray: plan, order, loop, step, checkpoint, proof of view, sweep."""
