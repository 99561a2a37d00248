"""Benchmark of the training: what fine-tuning gains on unseen people."""
