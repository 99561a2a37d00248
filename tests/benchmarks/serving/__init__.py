"""Benchmark of the embedder: speed, overload and swaps, also against other servers."""
