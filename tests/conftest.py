"""What all tests share."""

import os

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
