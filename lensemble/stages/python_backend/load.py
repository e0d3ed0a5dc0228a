"""Makes the object that does the work of a `model.py`; its `initialize` calls `load_model`."""

from __future__ import annotations

import faulthandler
import json
import logging
import signal
from collections.abc import Callable
from typing import Any

from lensemble.settings import Settings
from lensemble.stages.python_backend import triton_api
from lensemble.stages.python_backend.lane_model import LaneTritonModel
from lensemble.stages.python_backend.model import TritonModel
from lensemble.stages.stage import LaneStage, Stage
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

# `kill -USR1` on a model process writes the stacks of its threads to the server's log. The
# handler is installed at import, so that the stacks also show where `initialize` hangs.
faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def load_model(
    stage_class: Callable[[Settings, str], Stage[Any, Any]], args: dict[str, str]
) -> TritonModel:
    """Makes a model from the environment's settings.

    Args:
        stage_class: class of the stage; takes settings and a torch device.
        args: the argument of Triton's `initialize`.

    Raises:
        InvalidInputError: The model's config.pbtxt belongs to another version of the package, or a
            setting, the checkpoint or the index cannot be used.
    """
    logging.basicConfig(handlers=[triton_api.TritonLogHandler()], level=logging.INFO, force=True)
    _check_contract_version(args)
    settings = Settings.from_env()
    stage = stage_class(settings, _device(settings, args))
    if isinstance(stage, LaneStage):
        return LaneTritonModel(stage, args["model_name"], settings)
    return TritonModel(stage, args["model_name"], settings)


def _check_contract_version(args: dict[str, str]) -> None:
    parameters = json.loads(args["model_config"])["parameters"]
    version = parameters["contract_version"]["string_value"]
    if version != str(contract.CONTRACT_VERSION):
        raise InvalidInputError(
            f"config.pbtxt of {args['model_name']!r} has contract version {version}, but the "
            f"installed package has version {contract.CONTRACT_VERSION}; use both from one release",
            field="model_repository",
        )


def _device(settings: Settings, args: dict[str, str]) -> str:
    """The torch device: the one that is set, or the one that Triton assigned to the instance."""
    device: str = settings.device
    if device == "auto":
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
    return f"cuda:{args['model_instance_device_id']}" if device == "cuda" else device
