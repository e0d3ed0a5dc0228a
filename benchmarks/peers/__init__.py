"""Other ways to serve the same checkpoint, and what each does with the same items on this machine.

    python -m benchmarks.peers [--quick] [--workload demo|small|both] [--callers 16] [--save]

One module per peer; README.md beside this file says which there are and how to read the table.
"""
