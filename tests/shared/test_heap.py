"""Memory of networks is mapped while any of them is loaded, and other memory is not."""

import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes
from shared.heap import limit_heaps, mapped_weights

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )]

libc.mallinfo2.restype = Counts

def is_mapped():
    before = libc.mallinfo2().hblks
    libc.malloc(ctypes.c_size_t(4 * 2**20))
    return libc.mallinfo2().hblks > before

limit_heaps()
seen = [is_mapped()]
first, second = mapped_weights(), mapped_weights()
first.__enter__()
second.__enter__()
seen.append(is_mapped())
first.__exit__(None, None, None)
seen.append(is_mapped())
second.__exit__(None, None, None)
seen.append(is_mapped())
print(seen)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc counts mapped blocks")
def test_weights_are_mapped_until_the_last_network_is_loaded() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "[False, True, True, False]"
