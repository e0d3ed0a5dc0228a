"""`lensemble doctor`: finds what would prevent a server from running, and how to repair it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble_cli.options import Commands
from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    from lensemble.settings import Settings

# Default ports of `lensemble up`: HTTP, gRPC, metrics, health.
_PORTS = (8000, 8001, 8002, 8003)


def add_command(commands: Commands) -> None:
    """Adds `lensemble doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="find what would prevent a server from running, and how to repair it",
        description="Options that are not given come from the LENSEMBLE_* variables.",
    )
    doctor.add_argument("--checkpoint", type=Path, help="serving checkpoint; every file is hashed")
    doctor.add_argument("--index", type=Path, help="index to search")
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from lensemble.operations.doctor import FAULT, examine

    settings, machine_only = _settings(args)
    faults = 0
    for finding in examine(settings, _PORTS, machine_only=machine_only):
        faults += finding.level == FAULT
        print(f"{finding.level:8} {finding.subject:14} {finding.text}", flush=True)
        if finding.remedy:
            print(f"{'':23} -> {finding.remedy}", flush=True)
    return 1 if faults else 0


def _settings(args: argparse.Namespace) -> tuple[Settings | None, bool]:
    """The settings, and whether only the machine can be checked."""
    try:
        from lensemble.settings import Settings
    except ImportError:  # only the client is installed; the checks name what is missing
        return None, True
    try:
        return Settings.from_env(checkpoint=args.checkpoint, index=args.index), False
    except InvalidInputError as error:
        # Without a checkpoint the machine itself can still be examined.
        if error.field != "LENSEMBLE_CHECKPOINT" or args.index is not None:
            raise
        return Settings.from_env(checkpoint=Path()), True  # finds what else is wrong
