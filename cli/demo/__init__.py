"""``magface demo``: the whole loop, from a wrong verdict to a better model in service."""
