"""Checks whether a model can do its work."""

from __future__ import annotations

from lensemble_client.calls.call import Call
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    LensembleError,
    NotReadyError,
)
from lensemble_contract.items import blank_rows


def ping(name: str) -> Call[None]:
    """Returns the call that checks whether the process of a model can do its work.

    Args:
        name: Name of the model, a key of `contract.PROCESSES`.
    """
    model = contract.PROCESSES[name]
    tensors = [tensor for tensor in model.inputs if not tensor.optional] or model.inputs[:1]
    return Call(model, blank_rows(tensors), {contract.PING: True}, lambda _: None)


def processes_of(model: str) -> tuple[str, ...]:
    """Returns the names of the models that run as processes and make up a model.

    Args:
        model: Name of a model or ensemble, a key of `contract.ALL_MODELS`.
    """
    return contract.ALL_MODELS[model].steps or (model,)


def is_answer(error: LensembleError) -> bool:
    """Whether an error that `ping` raised came from a model process that is alive.

    A model of an older server knows no pings; it refuses the blank rows, so it is alive too.
    """
    return not isinstance(error, NotReadyError | DeadlineExceededError | InternalError)
