"""Benchmark of everything that can run on a GPU."""
