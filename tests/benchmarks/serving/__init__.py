"""Benchmark of the embedder: speed, overload, swaps, and other servers beside it."""
