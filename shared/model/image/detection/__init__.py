"""Face detection: search, second look, and choice of a face; `detector` is its interface."""
