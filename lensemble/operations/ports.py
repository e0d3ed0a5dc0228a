"""TCP ports that are free on this machine, and who listens on the others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from lensemble_contract.errors import InvalidInputError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port on loopback on which nobody listens now."""
    return free_ports((0,))[0]


def free_ports(ports: Sequence[int], address: str = LOOPBACK) -> list[int]:
    """Checks that ports are free, and finds free ones in place of zeros.

    All ports are held until the last one is found, so no port is returned twice.

    Args:
        ports: TCP ports; 0 stands for any free port.
        address: address to listen on.

    Raises:
        InvalidInputError: A port is taken. Without this check, the program that listens there would
            answer requests that are meant for ours. The message names that program, if the system
            tells who it is.
    """
    with contextlib.ExitStack() as stack:
        free = []
        for port in ports:
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((address, port))
            except (OSError, OverflowError) as error:
                program = listener(port)
                raise InvalidInputError(
                    f"cannot listen on {address}:{port} ({error}); "
                    f"stop {program or 'the program that uses the port'}, or choose another port "
                    "(0 finds a free one)",
                    field="port",
                ) from error
            free.append(held.getsockname()[1])
        return free


def listener(port: int) -> str:
    """Name and process id of the program that listens on a TCP port, such as `python (pid 42)`.

    Empty if nobody does, or if the program belongs to another user.
    """
    try:
        import psutil  # the gateway alone is installed without it
    except ImportError:
        return ""
    try:
        for each in psutil.net_connections("tcp"):
            address = each.laddr
            if each.status != psutil.CONN_LISTEN or not address or not each.pid:
                continue
            if address.port == port:
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})"
    except (psutil.Error, OSError):
        pass
    return ""
