"""Measurements, one folder per subject. They run from the repository's root.

    python -m benchmarks.<folder>.<module> [--quick] [--save]

- `encoder/`: the encoder and the preprocessing, without a server.
- `search/`: kinds of index, and searching and writing through the server.
- `serving/`: the running server and the gateway.
- `load/`: load tests with Locust (`python -m benchmarks.load SCENARIO`).
- `peers/`: other servers with the same checkpoint (`python -m benchmarks.peers`).
- `faults/`: killed processes and hostile input (`python -m benchmarks.faults`).
- `gpu/`: the harness for a GPU machine.
- `common/`: what the others share. `results/`: result files, which the docs quote.

The last line of standard output is one compact JSON object.
"""
