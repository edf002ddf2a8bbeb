"""Workers and schedulers that are lost, as errors for people."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from deapcache.errors import ClusterError, DeapcacheError


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong with a cluster in the block, as :class:`ClusterError` that says how to go on."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    again = "what was published stays; run the same command again to go on"
    try:
        yield
    except DeapcacheError:
        raise
    except KilledWorker as error:
        raise ClusterError(
            f"a task was given up after {error.allowed_failures + 1} workers had died of it: out of memory, as a rule "
            f"(give a smaller --batch-size, or fewer workers a host); {again}"
        ) from None
    except (FutureCancelledError, CancelledError, CommClosedError, TimeoutError) as error:
        raise ClusterError(f"the scheduler was lost ({type(error).__name__}): {again}") from None
    except ImportError as error:
        raise ClusterError(
            f"a worker lacks what it needs ({error}): install deapcache and the same packages on all workers"
        ) from None
