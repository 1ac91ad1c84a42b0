"""What all tests share."""

import os
import signal

from hypothesis import HealthCheck, settings

# In CI the same examples each time, so that a change is judged by what it changed; elsewhere new ones at every run.
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("ours")


def pytest_configure() -> None:
    """Have what tests start hear Ctrl-C: a shell has the jobs in its background ignore it, and so all of theirs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
