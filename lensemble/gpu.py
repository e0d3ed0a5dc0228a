"""Finds out whether PyTorch can compute on a GPU, and says why not.

A GPU that the driver lists may still be useless: the driver is older than the CUDA of this PyTorch,
the card is too old for it, or another process has the card for itself. PyTorch says so in errors of
several types, some only at the first computation.
"""

from __future__ import annotations

import os
import warnings

import torch

from lensemble_contract.errors import InvalidInputError

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def find_gpus() -> int:
    """Number of GPUs that PyTorch finds; it may still be unable to compute on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `gpu_fault` gives the reason if it finds none
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_fault(device: torch.device) -> str:
    """Computes one sum on a GPU; returns why that fails, or an empty text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat what the error says
            total = float(torch.ones(2, device=device).sum())
    # An AssertionError if this PyTorch is for CPUs, a RuntimeError or a plain Exception otherwise.
    except Exception as error:
        return (str(error).strip() or type(error).__name__).partition("\n")[0]
    return "" if total == 2 else f"1 + 1 is {total:g} there"


def visible_devices() -> str:
    """`CUDA_VISIBLE_DEVICES` with its value; empty if it is not set, which hides no GPU."""
    value = os.environ.get(_VARIABLE)
    return "" if value is None else f"{_VARIABLE} is {value!r}"


def require_device(device: str) -> None:
    """Checks that PyTorch can compute on a device.

    Args:
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: It is a GPU, and PyTorch cannot compute there; the message has the cause.
    """
    target = torch.device(device)
    if target.type == "cpu":
        return
    if fault := gpu_fault(target):
        hint = f" ({hidden})" if (hidden := visible_devices()) else ""
        raise InvalidInputError(
            f"PyTorch cannot compute on {device!r}{hint}: {fault.rstrip('.')}; `lensemble doctor` "
            "examines the GPUs, and LENSEMBLE_DEVICE=cpu serves without one",
            field="LENSEMBLE_DEVICE",
        )
