"""The one place where a moment is packed for the wire."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def pack_timestamp(moment: datetime) -> Timestamp:
    """Pack an aware moment."""
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
