"""The standard error of the process, which libraries write to without asking Python."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def suppressed() -> Iterator[None]:
    """Drops what is written to standard error within the block, also by libraries, unless the block fails."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            log.seek(0)
            os.write(standard_error, log.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
