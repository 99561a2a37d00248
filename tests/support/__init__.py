"""Helpers of several test packages: waiting, processes and servers."""
