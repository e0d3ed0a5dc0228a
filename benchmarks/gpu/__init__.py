"""What only a GPU can show; `README.md` beside this says how to bring it there and run it.

Every step is `python -m benchmarks.gpu.<step> --out FOLDER [--dry]` and writes FOLDER/<step>.json.
`--dry` runs it on the CPU with a tiny checkpoint and few sizes: it shows that the step works.
"""
