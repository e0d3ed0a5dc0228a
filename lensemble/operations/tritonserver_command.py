"""The command line and the environment with which tritonserver is started."""

from __future__ import annotations

import os
import secrets
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensemble.operations.installation import Installation
from lensemble.settings import PREFIX, Settings
from lensemble_contract.direct_connections import with_direct_hosts
from lensemble_contract.tls import Tls

# How many iterations the CPU threads of PyTorch spin while they wait for each other, before they
# sleep.
GOMP_SPINCOUNT = "1000"

# Variables for the capacities of the caches in which PyTorch and oneDNN keep oneDNN's primitives
# (operations compiled for one size). A primitive takes about a megabyte. The default is 1,024, but
# nearly every pass has new sizes, so older primitives are not used again. docs/decisions.md has the
# measurements.
PRIMITIVE_CACHES = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}

# Triton's APIs that change the server, and that Lensemble does not need; see docs/security.md.
_CLOSED_APIS = ("model-repository", "trace", "logging", "shared-memory")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where tritonserver listens.

    Attributes:
        grpc_address: address of the gRPC port.
        plain_address: address of the HTTP and metrics ports, which have no TLS.
        grpc: gRPC port.
        http: HTTP port.
        metrics: port of the metrics.
        tls: certificates of the gRPC port; None serves it without TLS.
        mutual: whether callers must show a certificate of the same authority.
    """

    grpc_address: str
    plain_address: str
    grpc: int
    http: int
    metrics: int
    tls: Tls | None = None
    mutual: bool = False


def tritonserver_command(
    installation: Installation,
    settings: Settings,
    endpoints: Endpoints,
    *,
    repository: Path,
    backends: Path | None,
    shared_memory_prefix: str,
) -> list[str]:
    """The command line of tritonserver.

    Args:
        installation: where tritonserver is installed.
        settings: the server's settings.
        endpoints: where it listens.
        repository: folder of the models.
        backends: folder of Triton's backends; None leaves it to tritonserver.
        shared_memory_prefix: beginning of the names of its segments in /dev/shm.
    """
    return [
        str(installation.binary),
        f"--model-repository={repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=15",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
        *([f"--backend-directory={backends}"] if backends is not None else []),
        *_endpoint_options(endpoints),
        *_tracing_options(settings),
    ]


def _endpoint_options(endpoints: Endpoints) -> Iterator[str]:
    yield f"--grpc-address={endpoints.grpc_address}"
    yield f"--grpc-port={endpoints.grpc}"
    yield f"--http-address={endpoints.plain_address}"
    yield f"--http-port={endpoints.http}"
    yield f"--metrics-address={endpoints.plain_address}"
    yield f"--metrics-port={endpoints.metrics}"
    # Nobody knows the random key, so the APIs that require it are closed to everybody.
    restricted = f"{','.join(_CLOSED_APIS)}:admin-key={secrets.token_urlsafe(32)}"
    yield f"--grpc-restricted-protocol={restricted}"
    yield f"--http-restricted-api={restricted}"
    if endpoints.tls is not None:
        yield "--grpc-use-ssl=true"
        yield f"--grpc-server-cert={endpoints.tls.certificate}"
        yield f"--grpc-server-key={endpoints.tls.key}"
        if endpoints.mutual:
            yield "--grpc-use-ssl-mutual=true"
            yield f"--grpc-root-cert={endpoints.tls.authority}"


def _tracing_options(settings: Settings) -> Iterator[str]:
    if settings.traces is not None:
        yield "--trace-config=mode=opentelemetry"
        yield f"--trace-config=opentelemetry,url={settings.traces}"
        yield "--trace-config=opentelemetry,resource=service.name=lensemble"
        yield "--trace-config=level=TIMESTAMPS"
        yield f"--trace-config=rate={settings.trace_every}"


def tritonserver_environment(
    installation: Installation, settings: Settings, own_hosts: Sequence[str] = ()
) -> dict[str, str]:
    """The environment variables of tritonserver and of its model processes.

    Args:
        installation: where tritonserver is installed.
        settings: the server's settings.
        own_hosts: addresses of this machine, besides loopback, that are reached without a proxy.
    """
    # Our own variables are not inherited: the models would read those whose settings are None.
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    environment = with_direct_hosts({**inherited, **settings.to_env()}, own_hosts)
    # The threads of libgomp spin while they wait for each other. If other processes need the same
    # cores, long spinning makes a pass take ten times as long (docs/decisions.md).
    environment.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
    for name, value in PRIMITIVE_CACHES.items():
        environment.setdefault(name, value)
    # The backend's stub finds its packages through the first `python` on PATH.
    environment["VIRTUAL_ENV"] = sys.prefix
    environment["PATH"] = os.pathsep.join([f"{sys.prefix}/bin", os.environ.get("PATH", "")])
    if installation.stub is not None:
        libraries = [installation.libraries, sysconfig.get_config_var("LIBDIR")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            [*(str(path) for path in libraries if path), os.environ.get("LD_LIBRARY_PATH", "")]
        ).rstrip(os.pathsep)
    return environment


def assemble_backends(installation: Installation, target: Path) -> Path | None:
    """Links the Python backend and its stub into one folder, as Triton expects them.

    The `nvidia-pytriton` wheel keeps them in two folders.

    Args:
        installation: where tritonserver is installed.
        target: folder to make.

    Returns:
        The folder; None if tritonserver finds its own backends.
    """
    if installation.backends is None or installation.stub is None:
        return None
    python = target / "python"
    python.mkdir(parents=True)
    for path in (installation.backends / "python").iterdir():
        (python / path.name).symlink_to(path)
    stub = python / installation.stub.name
    stub.unlink(missing_ok=True)
    stub.symlink_to(installation.stub)
    return target
