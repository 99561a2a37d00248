"""Writes the crops bundled in `shared.model.default`: `python -m cli.rendering`."""

from cli.rendering.bundled_crops import write_bundled_crops

if __name__ == "__main__":
    write_bundled_crops()
