"""How people are drawn; `shared.datasets.render` is the way in."""
