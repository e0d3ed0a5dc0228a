"""Checks whether this machine can run a server; each problem comes with a remedy.

The modules of this package import what a check needs only when it runs, so that the checks say what
is missing in an environment that has only the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from lensemble.operations.doctor import configuration, devices, machine
from lensemble.operations.doctor.finding import FAULT, OK, WARNING, Finding
from lensemble_contract.errors import LensembleError

if TYPE_CHECKING:
    from lensemble.settings import Settings

__all__ = ["FAULT", "OK", "WARNING", "Finding", "examine", "faults_before_start"]

_Check: TypeAlias = Callable[[], Iterator[Finding]]


def examine(
    settings: Settings | None, ports: Sequence[int], *, machine_only: bool = False
) -> Iterator[Finding]:
    """Runs all checks, the quick ones first.

    Args:
        settings: the server's settings; None if they cannot be read, because a package is missing.
        ports: TCP ports on loopback that the server would use.
        machine_only: leaves out checkpoint, graphs, index and embedders.
    """
    checks: list[_Check] = [
        machine.python, machine.packages, machine.faiss, machine.tritonserver,
        lambda: devices.device(settings), lambda: devices.gpu_kernels(settings),
        machine.shared_memory, lambda: machine.free_for_use(ports), machine.variables,
    ]  # fmt: skip
    if settings is not None and not machine_only:
        checks += [
            lambda: configuration.checkpoint(settings, full=True),
            lambda: configuration.engine(settings, full=True),
            lambda: configuration.index(settings, full=True),
            lambda: configuration.embedders(settings),
        ]
    return _findings(checks)


def faults_before_start(settings: Settings) -> list[Finding]:
    """Finds, in a fraction of a second, what would certainly make the models fail to load.

    Weights and snapshots are not read, and PyTorch is not imported.

    Args:
        settings: the server's settings.
    """
    checks: list[_Check] = [
        machine.packages,
        machine.faiss,
        lambda: configuration.checkpoint(settings, full=False),
        lambda: configuration.engine(settings, full=False),
        lambda: configuration.index(settings, full=False),
        lambda: configuration.embedders(settings),
    ]
    return [finding for finding in _findings(checks) if finding.level == FAULT]


def _findings(checks: Iterable[_Check]) -> Iterator[Finding]:
    """Runs checks; what they raise becomes a finding, once for each error."""
    is_missing_a_package = False
    raised = set()
    for check in checks:
        try:
            for finding in check():
                is_missing_a_package |= finding.level == FAULT and finding.subject == "packages"
                yield finding
        except LensembleError as error:
            # Several checks open the checkpoint.
            if str(error) not in raised:
                raised.add(str(error))
                yield Finding(FAULT, error.field or "settings", error.message)
        except ImportError as error:
            if not is_missing_a_package:  # otherwise it was named already
                yield Finding(FAULT, "packages", f"cannot import: {error}", machine.INSTALL)
