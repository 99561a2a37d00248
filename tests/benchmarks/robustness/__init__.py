"""How faces are found in photographs that are turned, resized, cut, or show several people."""
