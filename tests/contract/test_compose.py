"""docker-compose.yml against the settings and the image it builds."""

import json
import re
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
import yaml

import lensemble
from lensemble.gateway.app import require_keys_beyond_loopback
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver_command import GOMP_SPINCOUNT, PRIMITIVE_CACHES
from lensemble.settings import Settings
from lensemble_cli.main import build_parser
from tests.paths import ROOT

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
TRITON, GATEWAY = SERVICES["triton"], SERVICES["gateway"]
ON_CPU = SERVICES["triton-cpu"]
OURS = [TRITON, ON_CPU, GATEWAY]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def compiled_kernels() -> str:
    """Folder in the image in which Triton's compiler keeps the GPU kernels."""
    return re.search(r"ENV TRITON_CACHE_DIR=(\S+)", DOCKERFILE).group(1)


def test_settings_of_the_service_can_be_read():
    found = Settings.from_env(TRITON["environment"])
    mounted = {volume.split(":")[1] for volume in TRITON["volumes"]}
    assert {str(found.checkpoint), str(found.index), compiled_kernels()} == mounted


def test_profile_with_a_gpu_does_not_serve_without_one():
    assert Settings.from_env(TRITON["environment"]).device == "cuda"
    assert Settings.from_env(ON_CPU["environment"]).device == "cpu"


def test_versions_agree_and_are_new_enough():
    stated = re.search(r"ARG TRITON=(\d+\.\d+)", DOCKERFILE).group(1)
    assert TRITON["build"]["args"]["TRITON"] == stated
    assert stated >= "26.06"
    assert TRITON["image"] == f"lensemble:{lensemble.__version__}"


def test_image_takes_the_choice_of_faiss():
    """`SEARCH=search-gpu docker compose up --build` builds an image with FAISS for GPUs."""
    default = re.search(r"^ARG SEARCH=(\S+)$", DOCKERFILE, re.MULTILINE).group(1)
    assert TRITON["build"]["args"]["SEARCH"] == f"${{SEARCH:-{default}}}"
    argument, install = DOCKERFILE.index("ARG SEARCH"), DOCKERFILE.index(",${SEARCH}]")
    assert DOCKERFILE.rindex("FROM ", 0, install) < argument < install  # of the same stage


def test_image_has_what_the_gpu_kernels_need():
    """The root file system is read-only, and `/tmp` of a container may not be executed."""
    assert re.search(r"apt-get install .*\bgcc\b.*\bpython3-dev\b", DOCKERFILE)
    assert f"gpu-kernels:{compiled_kernels()}" in TRITON["volumes"]
    assert TRITON["read_only"] and not compiled_kernels().startswith("/tmp")


def test_image_sets_what_the_embedded_server_sets():
    for name, value in {"GOMP_SPINCOUNT": GOMP_SPINCOUNT, **PRIMITIVE_CACHES}.items():
        assert re.search(rf"\b{name}={value}\b", DOCKERFILE), name


def test_nothing_is_published_beyond_loopback():
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_gateway_is_set_up_with_keys_and_finds_triton():
    found = GatewaySettings.from_env(GATEWAY["environment"])
    require_keys_beyond_loopback(found)
    assert found.host == "0.0.0.0" and found.keys is not None
    mounted = [volume.split(":")[1] for volume in GATEWAY["volumes"]]
    assert str(found.keys.parent) in mounted
    published = {port.rsplit(":", 1)[1] for port in TRITON["ports"]}
    for url in (found.triton, found.metrics):
        assert urlsplit(url).hostname == "triton"
        assert str(urlsplit(url).port) in published
    assert GATEWAY["ports"] == [f"127.0.0.1:{found.port}:{found.port}"]
    assert GATEWAY["read_only"] and GATEWAY["cap_drop"] == ["ALL"]
    assert GATEWAY["image"] == f"lensemble-gateway:{lensemble.__version__}"


def test_every_service_is_a_target_of_the_dockerfile():
    targets = re.findall(r"^FROM .+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert {service["build"]["target"] for service in OURS} == {*targets} - {"source"}


def test_files_that_the_image_copies_exist():
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists()


def test_version_is_stated_once():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{lensemble.__version__}"' in pyproject
    assert f"## {lensemble.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_image_starts_a_command_that_the_command_line_accepts():
    command = json.loads(re.search(r"^CMD (\[\"lensemble\".+\])$", DOCKERFILE, re.MULTILINE)[1])
    options = build_parser().parse_args(command[1:])
    assert options.address == "0.0.0.0"
    ports = {options.grpc_port, options.http_port, options.metrics_port, options.health_port}
    assert {f"127.0.0.1:{port}:{port}" for port in ports} == set(TRITON["ports"])
    assert f"EXPOSE {' '.join(map(str, sorted(ports)))}" in DOCKERFILE
    assert TRITON["healthcheck"]["test"][-1] == f"http://127.0.0.1:{options.health_port}/ready"


def test_server_is_the_same_with_and_without_a_gpu():
    gpu, cpu = {**TRITON}, {**ON_CPU}
    profiles = [service.pop("profiles") for service in (gpu, cpu)]
    assert profiles == [["gpu"], ["cpu"]]
    assert gpu.pop("deploy")["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert cpu.pop("networks") == {"default": {"aliases": ["triton"]}}
    assert cpu["environment"] == gpu["environment"] | {"LENSEMBLE_DEVICE": "cpu"}
    assert {**cpu, "environment": {}} == {**gpu, "environment": {}}
    Settings.from_env(ON_CPU["environment"])


def test_every_service_with_metrics_is_scraped():
    folder = ROOT / "deploy" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    targets = [job["static_configs"][0]["targets"] for job in config["scrape_configs"]]
    assert targets == [["triton:8002"], ["triton:8003"], ["gateway:8080"]]
    assert config["rule_files"] == [path.name for path in folder.glob("alerts*")]
    assert SERVICES["prometheus"]["volumes"][0].startswith("./deploy/prometheus:")


def test_images_of_others_are_pinned_to_a_version():
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])


def test_grafana_finds_its_dashboard_and_its_data():
    grafana = ROOT / "deploy" / "grafana"
    (source,) = yaml.safe_load(
        (grafana / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(
        (grafana / "provisioning" / "dashboards" / "lensemble.yml").read_text()
    )["providers"]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    board = json.loads((grafana / "dashboards" / "lensemble.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_docker_compose_reads_it(profile):
    command = ["docker-compose", "--profile", profile, "config", "--services"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert {*found.stdout.split()} == set(
        SERVICES
    )  # version 1.29 lists the services of other profiles, too


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's prometheus is not installed")
def test_promtool_accepts_the_configuration():
    command = ["promtool", "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    command = ["promtool", "check", "rules", "deploy/prometheus/alerts.yml"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "12 rules found" in found.stdout


def test_services_have_no_rights_that_they_do_not_need():
    for service in SERVICES.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["gateway", "triton-server"]
