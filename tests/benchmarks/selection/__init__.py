"""Benchmark of pair selection: how many labels a strategy saves."""
