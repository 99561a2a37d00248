"""Benchmark of pair selection: number of labels that a strategy saves."""
