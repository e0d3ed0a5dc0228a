"""Load tests as plain Locust; `benchmarks/load/README.md` has the options.

locust -f benchmarks/locustfile.py --headless --scenario demo-mixed --host grpc://127.0.0.1:8001
"""

from __future__ import annotations

import sys
from pathlib import Path

import gevent
import grpc.experimental.gevent

# Before any channel: without it a call blocks all users, and latencies look good for it.
grpc.experimental.gevent.init_gevent()
# gRPC waits for each call in a thread of gevent's pool. Of its 10, with more calls under way, an
# answer is not seen before an older call is answered, which looks like a slow server.
gevent.get_hub().threadpool.maxsize = 4096

# Locust puts this file's folder on the path, not the one above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.load.users.users import TimedUser  # noqa: E402
from benchmarks.load.wiring import Steps, listen  # noqa: E402

__all__ = ["Placeholder", "Steps"]


class Placeholder(TimedUser):
    """Locust wants a class here; those of the scenario take its place once that is known."""


listen()
