"""Benchmark of the training: gain of fine-tuning on unseen people."""
