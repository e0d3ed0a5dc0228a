"""Load tests: scenarios as data, Locust as the generator, the real Triton as what is tested.

    python -m benchmarks.load demo-mixed

The way of a run: `scenario` (what is asked) -> `corpus` (items, before the clock starts) ->
`served` (Triton, gateway, index) -> Locust (`wiring`, `users`, `connections`; the clock is `plan`,
arrivals without waiting are `arrivals`, what is kept is `tally`) beside `watch` (the server's
processes and Triton's statistics) -> `outcome` -> `limits`, `report`.

Locust patches Python's standard library, so it runs in processes of its own: nothing but
`locustfile`, `wiring` and `users` may import it.
"""
