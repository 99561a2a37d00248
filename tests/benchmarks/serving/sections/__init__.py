"""The sections of the serving benchmark, one measurement each."""
