"""Keep freed memory in the process, so that the commands do not fetch it from the system again for each batch."""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt, from <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_GIB = 2**30


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep freed blocks of up to 1 GiB for the next batch; for processes of this package only.

    By default, glibc maps blocks above 128 KiB to 32 MiB again from the system, and gives the free end of its heap
    back. The tensors of a batch are such blocks: each batch makes the system clear and map the same memory again, which
    took a sixth to a half of the processor time of `fcam-zoo benchmark`; benchmarks/allocation.py measures it.

    The memory of the process then stays at its peak, which is 5 to 25 % higher. Has no effect with another C library,
    or when the user chose settings of malloc: `MALLOC_…` variables, or `glibc.malloc` in `GLIBC_TUNABLES`.

    Returns:
        Whether settings were changed.
    """
    if not _uses_glibc() or _user_has_settings():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # A Python without dynamic loading.
        return False
    # Up to glibc 2.34, at most 32 MiB are accepted, less than a tensor: there, no block is mapped on its own.
    if not mallopt(_MMAP_THRESHOLD, _GIB):
        mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
    # The heaps of further threads have at most 64 MiB, larger blocks are mapped on their own in spite of the threshold,
    # and what one thread has freed does not serve the others. Small blocks do not wait for the shared heap: each thread
    # has a cache of them.
    mallopt(_ARENA_MAX, 1)
    return True


def _uses_glibc() -> bool:
    try:
        return (os.confstr('CS_GNU_LIBC_VERSION') or '').startswith('glibc')
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl.
        return False


def _user_has_settings() -> bool:
    variables = any(name.startswith('MALLOC_') for name in os.environ)
    return variables or 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '')
