"""Load tests as plain Locust; `benchmarks/load/README.md` has the options.

locust -f benchmarks/locustfile.py --headless --scenario demo-mixed --host grpc://127.0.0.1:8001
"""

from __future__ import annotations

import sys
from pathlib import Path

import gevent
import grpc.experimental.gevent

# This must come before any channel is made: without it a call blocks all users, so that requests
# start late and latencies look too good.
grpc.experimental.gevent.init_gevent()
# gRPC waits for each call in a thread of gevent's pool, which has 10 by default. With more calls in
# flight, an answer is only seen once an older call was answered, which looks like a slow server.
gevent.get_hub().threadpool.maxsize = 4096

# Locust puts this file's folder on the path, but not the repository's root.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.load.locust_hooks import Steps, register_hooks  # noqa: E402
from benchmarks.load.users.locust_users import TimedUser  # noqa: E402

__all__ = ["Placeholder", "Steps"]


class Placeholder(TimedUser):
    """Locust requires a class here; the scenario's classes replace it once the scenario is read."""


register_hooks()
