"""The classes of errors, and their way over the wire."""

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from lensemble_client import Retry
from lensemble_client.transports.wire import translate_error
from lensemble_contract import errors
from lensemble_contract.errors import LensembleError, NotReadyError, from_wire

# Without the gateway's own class, which is never sent to a client of this package.
CLASSES = [cls for cls in LensembleError.__subclasses__() if cls.__module__ == errors.__name__]


def test_docstring_names_every_class():
    for cls in CLASSES:
        assert f"{cls.__name__} " in errors.__doc__
        assert f"{cls.http_status}  {cls.grpc_status}" in errors.__doc__


def test_all_classes_are_exported():
    assert sorted(errors.__all__) == sorted(
        [cls.__name__ for cls in CLASSES] + ["LensembleError", "from_wire"]
    )


@pytest.mark.parametrize("status", [s.name for s in grpc.StatusCode if s.name != "OK"])
def test_every_grpc_status_maps_to_one_class(status):
    assert status in errors._BY_STATUS
    assert type(from_wire(f"StatusCode.{status}", "text")) in CLASSES


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("400", errors.InvalidInputError),
        ("404", errors.NotFoundError),
        ("413", errors.InvalidInputError),
        ("429", errors.OverloadedError),
        ("500", errors.InternalError),
        ("503", errors.NotReadyError),
        ("504", errors.DeadlineExceededError),
        ("599", errors.InternalError),
        (None, errors.NotReadyError),
    ],
)
def test_http_status_maps_to_its_class(status, expected):
    assert type(from_wire(status, "text")) is expected


@pytest.mark.parametrize("status", ["StatusCode.NOT_FOUND", "404", "400"])
def test_model_of_a_server_that_stops_or_starts_is_not_ready(status):
    """Triton 2.51 unloads its models before it closes its ports. Such a call may be tried again."""
    text = "Request for unknown model: 'embed' has no available versions"
    error = from_wire(status, text)
    assert type(error) is NotReadyError
    assert Retry.is_worth_retrying(error, writes=False)
    text = "Request for unknown model: 'embed_clip' is not found"
    assert not Retry.is_worth_retrying(from_wire(status, text), writes=False)


@pytest.mark.parametrize("cls", CLASSES)
def test_error_is_the_same_after_the_wire_and_an_ensemble(cls):
    message = "2000 pixels;\nat most 1000"
    sent = cls(message, field="image[3]")
    received = from_wire("StatusCode.UNAVAILABLE", f"in ensemble 'embed', {sent.to_wire()}")
    assert (type(received), received.field, received.message) == (
        cls,
        "image[3]",
        "2000 pixels;\nat most 1000",
    )
    assert str(received) == f"image[3]: {message}"


def test_error_without_field_keeps_a_colon_in_its_message():
    received = from_wire("500", errors.NotReadyError("No index: start one").to_wire())
    assert (received.field, received.message) == ("", "No index: start one")


def test_model_whose_process_died_is_not_ready():
    text = "in ensemble 'embed', Stub process 'qwen3_vl_0_0' is not healthy."
    assert isinstance(from_wire("StatusCode.INTERNAL", text), NotReadyError)
    assert isinstance(from_wire("500", text), NotReadyError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CANCELLED", NotReadyError),  # a server that stops ends its calls so
        ("Locally cancelled by application!", errors.CancelledError),
        ("[cancelled] the caller gave up", errors.CancelledError),
    ],
)
def test_call_that_the_server_cancelled_may_be_tried_again(text, expected):
    cancelled = InferenceServerException(text, status="StatusCode.CANCELLED")
    assert type(translate_error(cancelled, 1)) is expected
