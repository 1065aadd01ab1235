"""The files of `ray up`, by Ray's own checks and by what they promise."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

CLOUDS = ["aws.yaml", "gcp.yaml"]
# vCPUs and GPUs of the machines that the files name.
MACHINES = {"g6.12xlarge": (48, 4), "g2-standard-48": (48, 4)}


@pytest.fixture(params=CLOUDS)
def config(request: pytest.FixtureRequest, cluster: Path) -> dict[str, Any]:
    return yaml.safe_load((cluster / request.param).read_text())


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("where", [[], ["docker"], ["auth"], ["available_node_types", "gpu"]])
def test_ray_refuses_a_key_it_does_not_know(config: dict[str, Any], where: list[str]) -> None:
    part = config
    for key in where:
        part = part[key]
    part["misspelt"] = "x"
    with pytest.raises(ValidationError, match="misspelt"):
        validate_config(prepare_config(config))


def test_the_head_does_no_work_and_is_no_spot_machine(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert not {"InstanceMarketOptions", "scheduling"} & set(head["node_config"])


def test_workers_are_spot_machines_from_none_to_all(config: dict[str, Any]) -> None:
    worker = config["available_node_types"]["gpu"]
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"] > 0
    market = worker["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
    model = worker["node_config"].get("scheduling", {}).get("provisioningModel")
    assert [market, model] in (["spot", None], [None, "SPOT"])


def test_workers_count_as_what_their_machine_has(config: dict[str, Any]) -> None:
    worker = config["available_node_types"]["gpu"]
    machine = worker["node_config"].get("InstanceType") or worker["node_config"]["machineType"]
    assert worker["resources"] == dict(zip(("CPU", "GPU"), MACHINES[machine], strict=True))


def test_workers_reach_the_object_store_by_a_role(config: dict[str, Any]) -> None:
    assert {"IamInstanceProfile", "serviceAccounts"} & set(config["available_node_types"]["gpu"]["node_config"])


def test_no_other_ray_is_installed_over_that_of_the_image(config: dict[str, Any]) -> None:
    full = prepare_config(config)
    commands = [*full["setup_commands"], *full["head_setup_commands"], *full["worker_setup_commands"]]
    assert all("ray" not in command for command in commands)


def test_every_node_has_the_token_and_asks_for_it(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_the_commands_are_ones_that_ray_start_knows(config: dict[str, Any], ray_start) -> None:
    options = {}
    for kind in ("head", "worker"):
        (command,) = [text for text in config[f"{kind}_start_ray_commands"] if "ray start" in text]
        options[kind] = ray_start(shlex.split(command.partition("ray start")[2].replace("$RAY_HEAD_IP", "10.0.0.1")))
    assert options["head"]["head"] and options["head"]["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert options["head"]["dashboard_host"] == "127.0.0.1"
    assert options["worker"]["address"] == f"10.0.0.1:{options['head']['port']}"
