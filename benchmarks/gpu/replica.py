"""Makes an interpreter with the packages of the GPU machine, for rehearsals.

    python -m benchmarks.gpu.replica FOLDER [--python INTERPRETER]
    python -m benchmarks.gpu.dry_run --python FOLDER/bin/python

It takes about 5 GB of disk, most of it PyTorch's CUDA libraries.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from benchmarks.gpu.command.environments import find_python

# The GPU machine's versions; of the others any version does.
PACKAGES = (
    "torch==2.11.0",
    "torchvision==0.26.0",
    "triton==3.6.0",
    "transformers==5.17.0",
    "tokenizers==0.23.2",
    "safetensors==0.8.0",
    "huggingface-hub==1.33.0",
    "sentence-transformers==6.0.1",
    "numpy==2.5.2",
    "scipy==1.18.*",
    "scikit-learn",
    "scikit-image",
    "pandas",
    "pyarrow",
    "pillow",
    "grpcio",
    "protobuf",
    "aiohttp",
    "httpx",
    "jinja2",
    "ml-dtypes",
    "psutil",
    "prometheus-client",
)
# Packages that others bring along here, and that the GPU machine does not have.
MISSING = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "cachetools")


def main() -> None:
    """Makes the environment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the environment")
    parser.add_argument("--python", help="interpreter to start from; default: 3.12")
    options = parser.parse_args()
    python = options.python or find_python()
    subprocess.run([python, "-m", "venv", str(options.folder)], check=True)
    pip = [str(options.folder / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", *PACKAGES], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *MISSING], check=True)


if __name__ == "__main__":
    main()
