"""What the services, the command line and the local stack share.

Every process of this repository imports this package before ONNX Runtime can be loaded.
"""

import os

# ONNX Runtime collects telemetry from its import on: it writes an id of the device and a database
# below the home directory. Child processes inherit this.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
