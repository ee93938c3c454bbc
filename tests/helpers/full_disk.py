"""Simulates a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(max_bytes):
    """Limits the size of the files that this process writes to `max_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
