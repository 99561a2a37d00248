"""Other servers around the same network, each in one file, as its documentation recommends.

They run in virtual environments of their own, which have nothing of this project.
"""
