"""Other model servers for the same network, each set up as its documentation recommends.

Each runs in a virtual environment of its own, without this project's packages.
"""
