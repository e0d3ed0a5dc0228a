"""docker-compose.yml against the settings and the image it builds."""

import re
from pathlib import Path

import yaml

import lensemble
from lensemble.config import Settings

ROOT = Path(__file__).parents[2]
TRITON = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_settings_of_the_service_can_be_read():
    found = Settings.from_env(TRITON["environment"])
    mounted = {volume.split(":")[1] for volume in TRITON["volumes"]}
    assert {str(found.checkpoint), str(found.index)} == mounted


def test_versions_agree_and_are_new_enough():
    stated = re.search(r"ARG TRITON=(\d+\.\d+)", DOCKERFILE).group(1)
    assert TRITON["build"]["args"]["TRITON"] == stated
    assert stated >= "26.06"
    assert TRITON["image"] == f"lensemble:{lensemble.__version__}"


def test_nothing_is_published_beyond_loopback():
    assert all(port.startswith("127.0.0.1:") for port in TRITON["ports"])


def test_image_holds_what_is_copied_into_it():
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists()


def test_version_is_stated_once():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{lensemble.__version__}"' in pyproject
    assert f"## {lensemble.__version__}" in (ROOT / "CHANGELOG.md").read_text()
