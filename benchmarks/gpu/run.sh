#!/usr/bin/env bash
# Sets a bare GPU machine up and measures; see README.md beside this.
#
#   benchmarks/gpu/run.sh [--dry] [--out DIR] [--bundles DIR] [STEP...]
#
# Steps: setup correctness ceiling encoder peers served compiled (default: all, in this order).
# A step whose result file is there is not run again. Each has its own time limit and result file, so
# a run that is cut off leaves what it had. The last lines are one table of all results.
set -u
cd "$(dirname "$0")/../.."

dry="" out="benchmarks/results/gpu" bundles=".gpu"
while [ $# -gt 0 ]; do
  case "$1" in
    --dry) dry="--dry" ;;
    --out) out="$2"; shift ;;
    --bundles) bundles="$2"; shift ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(setup correctness ceiling encoder peers served compiled)

base="${PYTHON:-python3}"
venv=".cache/gpu/venv"
python="$venv/bin/python"
mkdir -p "$out" .cache/gpu
log="$out/run.log"

setup() {
  # The base interpreter's packages behind our own: NumPy 1.26 must stand in front of NumPy 2, with
  # which Triton 2.51's stub gives empty tensors. pip and hatchling are not needed.
  [ -x "$python" ] || "$base" -m venv --without-pip "$venv" || return 1
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return 1
  {
    printf '%s\n' "$PWD" "$PWD/cli" "$PWD/client" "$PWD/evaluation" "$PWD/export"
    "$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
  } > "$site/lensemble.pth"
  for wheel in "$bundles"/*/*.whl; do
    [ -e "$wheel" ] && { "$python" -m zipfile -e "$wheel" "$site" || return 1; }
  done
  if [ -e "$bundles/one/server.tar.xz" ]; then
    tar -xJf "$bundles/one/server.tar.xz" -C "$site" || return 1
    touch "$site/pytriton/__init__.py"
    chmod +x "$site/pytriton/tritonserver/bin/tritonserver" \
      "$site"/pytriton/tritonserver/python_backend_stubs/*/triton_python_backend_stub
    # The carried libpython is only for interpreters that have none of their own.
    own=$("$base" -c 'import sysconfig as s; print(s.get_config_var("LIBDIR") + "/" + s.get_config_var("INSTSONAME"))')
    case "$own" in *.so*) [ -e "$own" ] && rm -f "$site"/nvidia_pytriton.libs/libpython3.1[0-2].so* ;; esac
  fi
  "$python" -c 'import lensemble.encoder.pytorch.torch_engine, lensemble.operations.installation as s, numpy, torch
print("numpy", numpy.__version__, "torch", torch.__version__, "cuda", torch.cuda.is_available())
print(s.find_tritonserver().binary)'
}

limit() {  # seconds
  case "$1" in setup) echo 90 ;; ceiling) echo 40 ;; served) echo 400 ;; *) echo 170 ;; esac
}

failed=0
for step in "${steps[@]}"; do
  began=$SECONDS
  echo "== $step (at most $(limit "$step") s)" | tee -a "$log"
  if [ "$step" = setup ]; then
    setup 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
  elif [ -e "$out/$step.json" ]; then
    echo "its result is there" | tee -a "$log"
    continue
  else
    PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 timeout -k 10 "$(limit "$step")" \
      "$python" -m "benchmarks.gpu.$step" --out "$out" $dry 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
  fi
  echo "== $step ended with $status after $((SECONDS - began)) s" | tee -a "$log"
  [ "$status" -eq 0 ] || failed=1
done
"$python" -m benchmarks.gpu.table --out "$out"
exit $failed
