"""Reads the requests of one model and makes their responses.

Each request gets exactly one response: its results, or the error of its first bad row. If a row of
a request is bad, none of its rows is computed, so a refused write has written nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lensemble.scheduling.deadline import is_over, too_late
from lensemble.stages.parameters import check_parameters, deadline_of
from lensemble.stages.python_backend import triton_api
from lensemble.stages.python_backend.metrics import ErrorCounts
from lensemble.stages.stage import Stage
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError, StorageError
from lensemble_contract.items import blank_rows

logger = logging.getLogger(__name__)

# Errors that no caller causes; they are logged with the ids of their requests.
_SERVER_ERRORS = (InternalError, StorageError)
_LOGGABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class ModelRequest:
    """One request after reading.

    Attributes:
        id: the caller's id of the request; any text.
        rows: for each row, what the stage read, or the error for which it was refused.
        deadline: see `lensemble.scheduling.deadline`.
        is_ping: whether the request only asks whether the model works (`contract.PING`).
    """

    id: str = ""
    rows: list[Any] = field(default_factory=list)
    deadline: int = 0
    is_ping: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether the stage computes its rows. If any of them is an error, it computes none."""
        return not self.is_ping and not any(isinstance(row, LensembleError) for row in self.rows)


def read_request(stage: Stage[Any, Any], request: Any) -> ModelRequest:
    """Reads a request; never raises.

    Args:
        stage: the model's stage.
        request: Triton's request.
    """
    model_request = ModelRequest(request.request_id())
    try:
        rows = triton_api.read_tensors(request, stage.model.inputs)
        parameters = triton_api.read_parameters(request)
        check_parameters(parameters)
        if parameters.get(contract.PING) is True:
            model_request.is_ping = True
            return model_request
        model_request.deadline = deadline_of(rows, parameters)
        if is_over(model_request.deadline):
            raise too_late(stage.model.name)
        model_request.rows = list(stage.read(rows, parameters))
    except LensembleError as error:
        model_request.rows = [error]
    except Exception:
        logger.exception(
            "%s could not read request %s", stage.model.name, _loggable(model_request.id)
        )
        model_request.rows = [
            InternalError("the request could not be read; the model's log has the reason")
        ]
    return model_request


class Responses:
    """Makes the responses of one model and counts the errors among them.

    Args:
        stage: the model's stage.

    Attributes:
        errors: the errors so far.
    """

    def __init__(self, stage: Stage[Any, Any]) -> None:
        self._stage = stage
        self.errors = ErrorCounts()

    def response(self, request: ModelRequest, results: Sequence[Any], compute_ms: float) -> Any:
        """The response of a request; never raises.

        Args:
            request: the request.
            results: for each row, its result or its error.
            compute_ms: milliseconds that computing took.
        """
        for row, result in enumerate(results):
            if isinstance(result, LensembleError):
                return self._failed_row_response(request, result, row, len(results))
        try:
            rows = dict(self._stage.write(results))
            model = self._stage.model
            if model.time_output is not None:
                rows[model.time_output.name] = np.full((len(results), 1), compute_ms, np.float32)
            if contract.DEADLINE in model.outputs:
                deadlines = np.full((len(results), 1), request.deadline, np.int64)
                rows[contract.DEADLINE.name] = deadlines
            return triton_api.tensor_response(rows, model.outputs)
        except Exception:
            logger.exception("%s could not write a response", self._stage.model.name)
            return self._error_response(InternalError("the model failed"))

    def ping_response(self) -> Any:
        """The response of a ping: blank rows, or an error that says why the stage cannot work."""
        name = self._stage.model.name
        try:
            self._stage.check()
        except Exception as error:
            logger.exception("%s cannot do its work", name)
            text = f"{name} cannot do its work: {type(error).__name__}"
            return self._error_response(InternalError(text))
        return triton_api.tensor_response(
            blank_rows(self._stage.model.outputs), self._stage.model.outputs
        )

    def _failed_row_response(
        self, request: ModelRequest, error: LensembleError, row: int, row_count: int
    ) -> Any:
        if isinstance(error, _SERVER_ERRORS):
            logger.error(
                "%s: request %s: %s", self._stage.model.name, _loggable(request.id), error.to_wire()
            )
        return self._error_response(error, f" (row {row} of {row_count})" if row_count > 1 else "")

    def _error_response(self, error: LensembleError, suffix: str = "") -> Any:
        """Counts an error and makes the response that contains it."""
        self.errors.add(error)
        return triton_api.error_response(error.to_wire() + suffix, error.grpc_status)


def _loggable(request_id: str) -> str:
    """The id for the log; ids with characters that could forge a log line become `-`."""
    return request_id if _LOGGABLE_ID.fullmatch(request_id) else "-"
