"""Measurements that need a GPU; `README.md` in this folder explains how to run them.

Every step is `python -m benchmarks.gpu.<step> --out FOLDER [--dry]` and writes FOLDER/<step>.json.
`--dry` runs it on the CPU with a tiny checkpoint and few sizes, which only shows that it works.
"""
