"""``magface demo``: the whole loop, from corrections to a better serving model."""
