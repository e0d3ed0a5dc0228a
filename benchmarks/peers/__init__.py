"""Peers: other servers with the same checkpoint, measured with the same items on the same cores.

    python -m benchmarks.peers [--quick] [--workload demo|small|both] [--callers 16] [--save]

There is one module per peer; README.md lists them and explains the table.
"""
