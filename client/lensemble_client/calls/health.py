"""The call that checks whether a model can do its work."""

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
        name: Name of the model, a key of `contract.PROCESS_MODELS`.
    """
    model = contract.PROCESS_MODELS[name]
    tensors = [tensor for tensor in model.inputs if not tensor.optional] or model.inputs[:1]
    return Call(model, blank_rows(tensors), {contract.PING: True}, lambda _: None)


def processes_of(model: str) -> tuple[str, ...]:
    """Returns the names of the models that run as processes and make up a model.

    Args:
        model: Name of a model or ensemble, a key of `contract.ALL_MODELS`.
    """
    return contract.ALL_MODELS[model].steps or (model,)


def proves_alive(error: LensembleError) -> bool:
    """Whether an error in answer to a ping shows that the model process is alive.

    The models of an older server do not know pings and refuse the blank rows; they are alive, too.
    """
    return not isinstance(error, NotReadyError | DeadlineExceededError | InternalError)
