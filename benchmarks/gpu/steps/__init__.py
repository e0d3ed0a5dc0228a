"""The steps: `python -m benchmarks.gpu.steps.<step> --out FOLDER --device cpu` runs one alone."""
