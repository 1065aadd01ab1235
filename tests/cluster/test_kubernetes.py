"""The Kubernetes files: fields that exist, the operator's rules, and what the files promise."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from instsel.config.file import parse_study
from tests.cluster.kuberay import faults

FILES = ["raycluster.yaml", "rayjob.yaml", "storage.yaml"]
UNITS = {"Gi": 2**30, "Mi": 2**20}
Document = dict[str, Any]


def read(cluster: Path, name: str) -> str:
    return (cluster / "kubernetes" / name).read_text()


def documents(text: str) -> list[Document]:
    return list(yaml.safe_load_all(text))


def optional_lines_in(text: str) -> str:
    """The file with its optional volumes, mounts and secrets taken out of their comments."""
    text, mounts = re.subn(r"# (- \{name: shared, )", r"\1", text)
    text, secrets = re.subn(r"# (envFrom: )", r"\1", text)
    assert (mounts, secrets) == (4, 2)
    return text


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


@pytest.fixture
def job(cluster: Path) -> Document:
    return documents(read(cluster, "rayjob.yaml"))[1]


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def spec(request: pytest.FixtureRequest, cluster: Path) -> Document:
    """The cluster that a file describes."""
    found = documents(read(cluster, request.param))[-1]["spec"]
    return found.get("rayClusterSpec", found)


def pods(spec: Document) -> list[Document]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", FILES)
def test_every_field_exists_and_has_its_type(cluster: Path, name: str) -> None:
    found = documents(read(cluster, name))
    assert found
    assert [faults(document) for document in found] == [[]] * len(found)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_so_do_the_optional_lines(cluster: Path, name: str) -> None:
    storage = {(one["kind"], one["metadata"]["name"]) for one in documents(read(cluster, "storage.yaml"))}
    document = documents(optional_lines_in(read(cluster, name)))[-1]
    assert faults(document) == []
    for pod in pods(document["spec"].get("rayClusterSpec", document["spec"])):
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if volume["name"] == "shared"
        ]
        assert [("PersistentVolumeClaim", claim) in storage for claim in claims] == [True]
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
            one["name"] for one in pod["volumes"]
        }


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["spec", "backofLimit"], 3),
        (["spec", "backoffLimit"], "3"),
        (["spec", "submissionMode"], "HttpMode"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "container"], []),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (
            ["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 0, "emptyDir", "size_limit"],
            "1Gi",
        ),
    ],
)
def test_a_wrong_field_is_found(job: Document, where: list[Any], value: Any) -> None:
    part = copy.deepcopy(job)
    place = part
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    assert faults(part) != []


def test_job_and_cluster_describe_the_same_machines(cluster: Path, job: Document) -> None:
    wanted = documents(read(cluster, "raycluster.yaml"))[0]["spec"]
    given = copy.deepcopy(job["spec"]["rayClusterSpec"])
    head = given["headGroupSpec"]["template"]["spec"]
    study = [head["volumes"].pop(), head["containers"][0]["volumeMounts"].pop()]
    assert [one["name"] for one in study] == ["study", "study"]
    assert given == wanted


def test_the_head_does_no_work(spec: Document) -> None:
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in pods(spec)[0]["containers"][0]["resources"]["limits"]


def test_workers_come_and_go_with_the_work(spec: Document) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    # The operator's rule for Ray's second autoscaler, the default since Ray 2.47.
    assert {pod["restartPolicy"] for pod in pods(spec)} == {"Never"}


def test_workers_go_to_spot_nodes_with_gpus(spec: Document) -> None:
    worker = pods(spec)[1]
    (label, value), *_ = worker["nodeSelector"].items()
    tolerated = {taint["key"]: taint for taint in worker["tolerations"]}
    assert tolerated[label] == {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    assert tolerated["nvidia.com/gpu"]["operator"] == "Exists"


def test_requests_are_limits_so_that_ray_counts_what_there_is(spec: Document) -> None:
    for pod in pods(spec):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]


def test_shared_memory_holds_rays_objects_and_lies_within_the_limit(spec: Document) -> None:
    for pod in pods(spec):
        container = pod["containers"][0]
        (shm,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert shm["medium"] == "Memory"
        memory = bytes_of(container["resources"]["limits"]["memory"])
        assert 0.3 * memory <= bytes_of(shm["sizeLimit"]) < memory


def test_the_cluster_asks_for_a_token_which_its_ray_knows(spec: Document) -> None:
    assert spec["authOptions"] == {"mode": "token"}
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)


def test_pods_are_no_root_and_use_the_service_account_of_storage(spec: Document, cluster: Path) -> None:
    (account,) = [one for one in documents(read(cluster, "storage.yaml")) if one["kind"] == "ServiceAccount"]
    for pod in pods(spec):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_shared_storage_can_be_written_by_every_pod(cluster: Path) -> None:
    (claim,) = [one for one in documents(read(cluster, "storage.yaml")) if one["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_failed_job_is_tried_again_and_its_cluster_taken_away(job: Document) -> None:
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert spec["submissionMode"] == "HTTPMode"


def test_the_job_runs_the_study_that_is_mounted_with_gpus_that_can_come(job: Document, cluster: Path) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    config = documents(read(cluster, "rayjob.yaml"))[0]
    spec = job["spec"]["rayClusterSpec"]
    (mount,) = [one for one in pods(spec)[0]["containers"][0]["volumeMounts"] if one["name"] == "study"]
    (volume,) = [one for one in pods(spec)[0]["volumes"] if one["name"] == "study"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert words[-1] == f"{mount['mountPath']}/{next(iter(config['data']))}"
    workers = spec["workerGroupSpecs"][0]
    each = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    asked = parse_study(yaml.safe_load(config["data"]["study.yaml"]), "rayjob.yaml").resources.gpus
    assert asked is not None and asked <= workers["maxReplicas"] * each
    image = re.search(r"^WORKDIR (.+)$", (cluster / "Dockerfile").read_text(), re.MULTILINE)
    assert image is not None
    assert words[:2] == ["python", f"{image[1]}/jobs/run.py"]


def test_the_study_in_the_file_is_one(cluster: Path) -> None:
    data = documents(read(cluster, "rayjob.yaml"))[0]["data"]
    study = parse_study(yaml.safe_load(data["study.yaml"]), "rayjob.yaml")
    assert study.out == "REPLACE_OUT"
