"""Load tests: scenarios are data, Locust generates the load, a real Triton server is tested.

    python -m benchmarks.load demo-mixed

A run goes through these modules:

1. `scenario` reads what is asked for.
2. `users/item_file` makes the items, before the clock starts.
3. `monitoring/server` starts Triton, the gateway and the index.
4. `locust_process` runs Locust in a process of its own. There, `locust_hooks` and
   `users/locust_users` send requests: `load_schedule` is the clock, `users/arrivals` the open loop,
   `report/request_statistics` what is recorded.
5. `monitoring/sampler` meanwhile reads Triton's statistics and the use of its processes.
6. `report/` turns both into figures, checks the limits, writes tables, plots and files.

Locust patches Python's standard library when it is imported, so only `locustfile`, `locust_hooks`
and `users/locust_users` import it, and they run in processes of their own.
"""
