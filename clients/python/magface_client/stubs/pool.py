"""Descriptor pool of the stubs, apart from protobuf's default one."""

from typing import Final

from google.protobuf import descriptor_pb2, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL: Final = DescriptorPool()

# What the protos import.
for _module in (descriptor_pb2, timestamp_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
