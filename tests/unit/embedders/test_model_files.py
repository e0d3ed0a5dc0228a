import pytest

from lensemble.embedders.model_files import find_model
from lensemble_client import InvalidInputError, NotReadyError


def test_missing_model_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match=r"LENSEMBLE_CLIP: no \*.safetensors in"):
        find_model(str(tmp_path), "LENSEMBLE_CLIP")
    with pytest.raises(InvalidInputError, match="neither a folder nor a model on the hub"):
        find_model("no/such/folder", "LENSEMBLE_CLIP")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotReadyError, match="downloading it from the hub failed"):
        find_model("nobody/nothing", "LENSEMBLE_CLIP")
