"""What tests of several parts share: waiting, processes and servers."""
