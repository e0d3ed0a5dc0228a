# NVIDIA's Triton with this package. Releases before 26.06 lack published security fixes.
ARG TRITON=26.08

# The files that both images install.
FROM scratch AS source
COPY pyproject.toml README.md LICENSE ./
COPY lensemble lensemble
COPY cli cli
COPY client client
COPY evaluation evaluation
COPY export export
COPY model_repository model_repository

# The gateway: no Triton, no torch, no model.
FROM python:3.12-slim AS gateway
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/lensemble
COPY --from=source / ./
RUN pip install --no-cache-dir '.[gateway]' && useradd --system gateway
USER gateway
EXPOSE 8080
CMD ["python", "-m", "lensemble.gateway"]

FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3 AS triton
# FAISS for the CPU, or `search-gpu` for kinds of index that only FAISS searches on a GPU; the exact
# kind does not need it (docs/index.md).
ARG SEARCH=search
# lensemble/operations/tritonserver_command.py has the reasons for the variables after the first two.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONDONTWRITEBYTECODE=1 GOMP_SPINCOUNT=1000 \
  LRU_CACHE_CAPACITY=16 ONEDNN_PRIMITIVE_CACHE_CAPACITY=64
# Triton's compiler builds the GPU kernels where they run: it needs a C compiler, Python's headers,
# and a folder for the results.
ENV TRITON_CACHE_DIR=/var/cache/gpu-kernels
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
  && rm -rf /var/lib/apt/lists/* && install -d -o triton-server "${TRITON_CACHE_DIR}"
WORKDIR /opt/lensemble
COPY --from=source / ./
# pip only warns about an extra that does not exist, and would build an image without FAISS.
RUN case "${SEARCH}" in search|search-gpu) ;; \
  *) echo "SEARCH: '${SEARCH}' is not search or search-gpu" >&2; exit 1;; esac
# The image's Python backend is built for NumPy 1.
RUN pip install --no-cache-dir ".[serve,export,hybrid,${SEARCH}]" 'numpy<2'

USER triton-server
# HTTP, gRPC, Triton's metrics, and the supervisor's routes: /ready, /live and /metrics.
EXPOSE 8000 8001 8002 8003
# `lensemble up` restarts the server when a model process dies; Triton itself does not.
CMD ["lensemble", "up", "--address", "0.0.0.0", "--log", "json", "--drain", "5"]
