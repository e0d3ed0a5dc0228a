"""Measurements on a machine with a GPU; `README.md` in this folder explains how to run them.

    python3 -m benchmarks.gpu --out FOLDER

- `__main__.py` and `command/`: one command that runs all steps within a given time. It uses only
  the standard library, because it makes the environments in which the steps run.
- `steps/`: one module for each step.
- `measuring/`: what the steps share.
- `pack.py` packs what such a machine lacks, `report.py` makes tables of the results, and
  `dry_run.py` and `replica.py` rehearse the command on a CPU.
"""
