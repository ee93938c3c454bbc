"""A disk that takes no more, for tests of what is left then."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(most_bytes):
    """Within it, the system itself refuses to let this process write a file beyond `most_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
