"""Clusters with no more CPUs than actors, by Ray's logical resources, and work that finds no room."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.process, pytest.mark.long, pytest.mark.guard]

START = """
import sys, tempfile, time
from pathlib import Path
import pyarrow as pa
import ray
from instsel.config.study import Resources
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.runtime import actors, attempts, watchdog
from instsel.runtime.actors import ActorPool
from instsel.runtime.session import plan_resources, quiet_data

def start(cpus, gpus, **options):
    ray.init(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False, **options)
    quiet_data()

folder = Folder.at(Path(tempfile.mkdtemp()))
for name in "abcd":
    table = pa.table({"id": [name], "tokens": [10**6], "input_ids": [[1, 2]], "labels": [[-100, 2]]})
    folder.write_table(f"{name}.parquet", table)

class Worker:
    seconds = 0.0

    def __init__(self, threads):
        import torch
        torch.manual_seed(0)
        self.model = torch.nn.Embedding(4, 2)

    def __call__(self, item, ids, examples):
        import torch
        time.sleep(self.seconds)
        self.model(torch.tensor(examples[0]["input_ids"]))
        return {"ids": ids}

def run(plan, kind=Worker, names="abcd"):
    items = [{"rows": f"{name}.parquet"} for name in names]
    pool = ActorPool("features", items, folder, kind, (), lambda item: folder)
    return sorted(row["ids"][0] for row in pool.run(plan))
"""


def in_ray(code: str) -> str:
    """Run code in a process of its own, with a Ray of its own; return what it prints."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("cpus", "gpus", "per_actor", "actors"), [(2, 2, 1.0, 2), (2, 1, 0.5, 2), (1, 1, 1.0, 1)])
def test_fault_01_clusters_without_a_cpu_beside_their_actors_run(
    cpus: int, gpus: int, per_actor: float, actors: int
) -> None:
    text = in_ray(f"""
start({cpus}, {gpus})
plan = plan_resources(Resources(gpus_per_actor={per_actor}))
print(plan.actors, plan.gpus, run(plan))
""")
    assert text.strip() == f"{actors} {per_actor} ['a', 'b', 'c', 'd']"


def test_fault_01_work_that_finds_no_room_says_what_it_waits_for_and_ends() -> None:
    text = in_ray("""
start(2, 1)
plan = plan_resources(Resources(stall_minutes=0.2))
watchdog.SAY_SECONDS = 3.0

@ray.remote(num_cpus=1, num_gpus=1)
class Other:
    def ready(self):
        return True

other = Other.remote()
ray.get(other.ready.remote())
try:
    run(plan)
except StudyError as error:
    print("ended:", error)
ray.kill(other)
print(run(plan))
""")
    waiting = "features: 1 actors of 1 CPU and 1 GPU, readers of 0.1 CPU; free on 1 machines: "
    said, ended, result = text.replace("\n  ", " ").strip().splitlines()
    assert "no progress for 0.1 minutes: waiting for " + waiting in said
    assert ended.startswith("ended: no progress for 0.")
    assert "waited for " + waiting in ended
    assert "0 of 1 GPUs" in ended
    assert "stall_minutes" in ended
    assert result == "['a', 'b', 'c', 'd']"


def test_workers_that_take_long_over_a_piece_are_not_given_up() -> None:
    text = in_ray("""
start(1, 1)
plan = plan_resources(Resources(stall_minutes=0.3))
watchdog.SAY_SECONDS, attempts.SIGN_SECONDS, watchdog.SIGN_SECONDS = 3.0, 0.5, 0.5

class Slow(Worker):
    seconds = 25.0

# Where the actors are, the module has its own numbers.
class Limiter(attempts.AttemptLimiter):
    def working(self):
        attempts.SIGN_SECONDS = 0.5
        return super().working()

actors.AttemptLimiter = Limiter
print(run(plan, Slow, "a"))
""")
    assert text.strip().splitlines()[-1] == "['a']"


def test_defaults_take_what_is_free_and_not_what_there_is() -> None:
    text = in_ray("""
start(8, 4, labels={"ray.io/accelerator-type": "A100"})

@ray.remote(num_cpus=2, num_gpus=3)
class Other:
    def ready(self):
        return True

other = Other.remote()
ray.get(other.ready.remote())
plan = plan_resources(Resources(accelerator="A100", max_gpu_hours=1))
print(plan.actors, plan.workers, plan.nodes, 3590 < plan.ends_at - time.time() < 3610)
print(run(plan))
plan = plan_resources(Resources(max_gpu_hours=1e-9))
try:
    run(plan)
except StudyError as error:
    print(error)
try:
    plan_resources(Resources(accelerator="H100"))
except StudyError as error:
    print(error)
""")
    plan, result, spent, other = text.strip().splitlines()
    assert plan == "1 1 (Node(cpus=6.0, gpus=1.0),) True"
    assert result == "['a', 'b', 'c', 'd']"
    assert spent.startswith("resources.max_gpu_hours are spent: 1 GPUs since")
    assert other == "resources.accelerator is 'H100'; the cluster has A100"


def test_bug_tasks_beside_the_actors_took_any_type_of_gpu() -> None:
    text = in_ray("""
from ray.cluster_utils import Cluster
from instsel.planner.profile import Processes, _started

machine = dict(num_cpus=4, num_gpus=2, include_dashboard=False)
cluster = Cluster(initialize_head=True, head_node_args={**machine, "labels": {"ray.io/accelerator-type": "L4"}})
cluster.add_node(num_cpus=4, num_gpus=2, labels={"ray.io/accelerator-type": "A100"})
ray.init(address=cluster.address, log_to_driver=False)
quiet_data()
plan = plan_resources(Resources(accelerator="A100"))
type_of = {node["NodeID"]: node["Labels"]["ray.io/accelerator-type"] for node in ray.nodes()}

def where():
    return ray.get_runtime_context().get_node_id()

class Process:
    def __init__(self, threads):
        pass

    def ready(self):
        return True

    def where(self):
        return where()

    def close(self):
        pass

task = ray.remote(**plan.model_options)(where)
print({type_of[node] for node in ray.get([task.remote() for _ in range(8)])})
asked = Processes(2, plan.cpus, plan.gpus, 1, plan.label_selector)
with _started(Process, asked, 2, ()) as group:
    print({type_of[node] for node in ray.get([each.where.remote() for each in group.processes])}, asked.per_machine)
ray.shutdown()
cluster.shutdown()
""")
    # Ray says, too, that the processes of the group were killed.
    assert [line for line in text.splitlines() if line.startswith("{")] == ["{'A100'}", "{'A100'} 2"]
