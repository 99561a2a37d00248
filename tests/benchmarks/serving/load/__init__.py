"""Load generation: the client process, its connections and load patterns."""
