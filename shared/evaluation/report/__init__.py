"""The report of an evaluation: its page, its plots, and the folders of wrong decisions."""

import os
from tempfile import TemporaryDirectory

# Without a folder of its own, matplotlib writes its list of fonts below the home directory.
if "MPLCONFIGDIR" not in os.environ:
    _folder = TemporaryDirectory(prefix="magface-matplotlib-")
    os.environ["MPLCONFIGDIR"] = _folder.name
