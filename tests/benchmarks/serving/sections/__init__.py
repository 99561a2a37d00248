"""Sections of the serving benchmark: one measurement each."""
