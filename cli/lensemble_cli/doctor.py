"""`lensemble doctor`: finds what would prevent a server from running, and how to repair it."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensemble_cli.options import Commands, report_missing_package
from lensemble_contract.errors import InvalidInputError

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
    try:
        from lensemble.operations.doctor import FAULT, examine
        from lensemble.settings import Settings
    except ImportError as error:
        return report_missing_package("local-server", error)
    machine_only = False
    try:
        settings = Settings.from_env(checkpoint=args.checkpoint, index=args.index)
    except InvalidInputError as error:
        # Without a checkpoint the machine itself can still be examined.
        if error.field != "LENSEMBLE_CHECKPOINT" or args.index is not None:
            raise
        settings = Settings.from_env(checkpoint=Path())  # finds what else is wrong
        machine_only = True
    faults = 0
    for finding in examine(settings, _PORTS, machine_only=machine_only):
        faults += finding.level == FAULT
        print(f"{finding.level:8} {finding.subject:14} {finding.text}")
        if finding.remedy:
            print(f"{'':23} -> {finding.remedy}")
    return 1 if faults else 0
