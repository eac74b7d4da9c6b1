"""Work spread over a Ray cluster of two nodes on this machine: every result, whatever ends a node or a process."""

import os
import platform
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cluster_work
import pandas as pd
import pytest
import yaml
from family_facts import fresh

from headimpact.adapters.cell import Placement
from headimpact.data.scene_dataset import write_scenes
from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle import cluster, layout
from headimpact.lifecycle.config import Compute, Config, Job
from headimpact.lifecycle.steps import identify, tournament
from headimpact.lifecycle.steps.tournament import Task
from headimpact.tiny import bases
from headimpact.tournament import contest
from headimpact.tournament.contest import ORIGINAL, Contest, Contestant, Run

COMPUTE = {
    "device": "cpu",
    "dtype": "float32",
    "threads": 0,
    "batch_tokens": 4096,
    "workers": 0,
    "prefetch": 1,
    "memory_mb": 64,
    "disk_mb": 0,
}
RUNS = {Contestant("top", 2, 1, 0): Run(Placement((0, 2)), 1), Contestant("last", 2, 1, 0): Run(Placement((2, 3)), 1)}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each; the first one has what holds the cluster together."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers find the functions of cluster_work.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        # Ray would write a token into the person's home.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else the machine does is no reason to end a test
        patch.setenv("RAY_worker_niceness", "0")  # or other tests beside it would starve it
        # Ray reads its part of the environment when it is imported.
        utilities = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (requirements-cluster.txt)")
        started = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        started.add_node(num_cpus=1)
        yield started
        started.shutdown()


@pytest.fixture
def compute(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compute:
    """The cluster, asked for from an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Compute.model_validate(COMPUTE | {"cluster": nodes.address})


def test_results_come_as_they_are_made_and_what_a_killed_process_was_at_is_done_again(compute, capfd):
    done = cluster.spread(cluster_work.shout_after_the_first_is_kept, ["second", "first", "mortal"], compute)
    found = [next(done)]
    Path("first is kept").touch()
    found += done
    assert found[0] == ("first", "first!")
    assert dict(found) == {"first": "first!", "second": "second!", "mortal": "mortal!"}
    assert {task: len(cluster_work.attempts(task)) for task, _ in found} == {"first": 1, "second": 1, "mortal": 2}
    assert len({node.partition("/")[0] for task, _ in found for node in cluster_work.attempts(task)}) == 2


def test_nothing_to_do_needs_no_cluster(compute):
    nowhere = compute.model_copy(update={"cluster": "127.0.0.1:1"})
    assert list(cluster.spread(cluster_work.shout, [], nowhere)) == []


def test_what_was_refused_is_told_as_without_a_cluster(compute):
    with pytest.raises(InputError) as told:
        list(cluster.spread(cluster_work.refuse, ["image.png"], compute))
    message, where = str(told.value).splitlines()
    assert message == "image.png has no pixels. Remove it."
    assert where == f"(on the machine {platform.node()} of the cluster, in {Path.cwd()})"


def test_the_machines_have_to_be_large_enough(compute):
    with pytest.raises(InputError, match=r"No machine .* has 2 CPUs \(the largest has 1\)\. Lower compute.threads"):
        list(cluster.spread(cluster_work.shout, ["task"], compute.model_copy(update={"threads": 2})))


@pytest.fixture
def config(project_root: Path, compute: Compute, tmp_path: Path) -> Iterator[Config]:
    """A small dataset and a tiny base in the working directory."""
    write_scenes(layout.DATASET, {"impact": 1, "train": 4, "val": 2, "test": 2}, seed=0)
    bases.save(fresh("idefics3", 0), tmp_path / "one")
    values = yaml.safe_load((project_root / "params.yaml").read_text())
    values["models"] = {"one": {"source": "one", "revision": None}}
    values["train"] |= {"epochs": 1, "batch_images": 2, "lr": 1.0e-2}
    values["model"], values["grid"]["models"], values["tournament"]["models"] = "one", ["one"], ["one"]
    values["tournament"]["workers"] = 1
    values["compute"] = compute.model_dump()
    identify.run(Config.model_validate(values), Job("one", "original"))
    yield Config.model_validate(values)
    tournament._ground.cache_clear()


def train(config: Config, context: str) -> pd.DataFrame:
    path = layout.tournament_runs("one")
    entry = Contest("one", None, context, RUNS, {}, 1)
    assert tournament._train(config, [entry]) == len(RUNS) + 1
    table = contest.read_runs(path, context).drop(columns="context")
    return table.sort_values(["layers", "seed", "object_id"], ignore_index=True)


def test_a_tournament_is_the_same_with_and_without(config):
    alone = train(config.model_copy(update={"compute": config.compute.model_copy(update={"cluster": None})}), "alone")
    together = train(config, "together")
    assert together.to_csv() == alone.to_csv()
    assert together.equals(alone)
    assert together["layers"].nunique() == len(RUNS) + 1
    assert not [path for path in Path("outputs/checkpoints").rglob("*") if path.is_file()]


def test_what_a_machine_lacks_is_told(config):
    needs = tournament._needs(config, read_json(layout.identity("one"))["digest"])
    task = Task(config, "one", None, "context", needs, ORIGINAL, 1)
    for name, complaint in (
        ("dataset", "one: data/dataset is another dataset (the tournament's: what it was, here: "),
        ("dtype", "one: auto is another precision here: set compute.dtype to the one that is wanted ("),
        ("base", "one: one is another base ("),
    ):
        with pytest.raises(InputError, match=re.escape(complaint)):
            tournament._make_elsewhere(replace(task, needs=needs | {name: "what it was"}))
    Path("one").rename("elsewhere")
    with pytest.raises(InputError, match=r"There is no folder one\. Every machine of a cluster needs it"):
        tournament._make_elsewhere(task)
    with pytest.raises(InputError, match=r"has no folder /not/here \(No such file.*share the project's folder"):
        cluster._work("/not/here", cluster_work.shout, "task")


def test_what_a_lost_machine_was_at_is_done_elsewhere(compute, nodes, capfd):
    """The last one: a node is missing from then on."""
    (other,) = nodes.worker_nodes
    done = cluster.spread(cluster_work.shout_when_one_node_is_left, ["one", "two", "three"], compute)
    remover = threading.Thread(target=remove_when_begun, args=(nodes, other, Path.cwd()))
    remover.start()
    found = dict(done)
    remover.join()
    assert found == {task: f"{task}!" for task in ("one", "two", "three")}
    made = [cluster_work.attempts(task) for task in found]
    assert sorted(map(len, made)) == [1, 1, 2]
    assert len({attempts[-1].partition("/")[0] for attempts in made}) == 1


def remove_when_begun(nodes: Any, node: Any, folder: Path) -> None:
    """End a node, and what was at work on it, which would live on for a while."""

    def at_work() -> list[str]:
        return [trace for name in ("one", "two", "three") for trace in cluster_work.attempts(str(folder / name))]

    cluster_work.wait_until(lambda: len(at_work()) == 2)
    lost = [int(process) for on, _, process in (trace.partition("/") for trace in at_work()) if on == node.node_id]
    nodes.remove_node(node, allow_graceful=False)
    for process in lost:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert lost
    (folder / "one is left").touch()


def getting(error: Exception) -> Any:
    """A Ray that has an error to give."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (requirements-cluster.txt)")

    def get(reference: object) -> None:
        raise error

    return SimpleNamespace(get=get, exceptions=ray.exceptions)


def test_what_kills_every_process_ends_with_a_message(nodes):
    exceptions = pytest.importorskip("ray.exceptions")
    for error in (exceptions.WorkerCrashedError(), exceptions.OutOfMemoryError("no memory\n" * 9)):
        with pytest.raises(InputError, match=r"lost 4 times .*\. What was finished is kept\. Is there enough memory\?"):
            cluster._result(getting(error), None)
    with pytest.raises(InputError, match=r"could not take the code: (.|\n)*no space"):
        cluster._result(getting(exceptions.RuntimeEnvSetupError("no space")), None)


def test_a_fault_of_ours_has_its_trace(nodes):
    exceptions = pytest.importorskip("ray.exceptions")
    error = exceptions.RayTaskError("_work", "in line 1", ZeroDivisionError()).as_instanceof_cause()
    with pytest.raises(ZeroDivisionError, match="in line 1"):
        cluster._result(getting(error), None)


def test_without_ray_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = Compute.model_validate(COMPUTE | {"cluster": "local"})
    with pytest.raises(InputError, match=r"Ray is not installed(.|\n)*pip install -r requirements-cluster\.txt"):
        list(cluster.spread(cluster_work.shout, ["task"], asked))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_where_nothing_answers(address):
    with pytest.raises(
        InputError, match=rf"nothing answers there(.|\n)*ray start --address {re.escape(address)} --dis"
    ):
        cluster._check_answers(address)


def machine(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "device", "share"),
    [
        ([machine(CPU=1)], "auto", (1, 0)),
        ([machine(CPU=1), machine(CPU=16, GPU=8)], "auto", (1, 1)),
        ([machine(CPU=1), machine(CPU=16, GPU=8)], "cpu", (1, 0)),
        ([machine(CPU=1), machine(alive=False, CPU=16, GPU=8)], "auto", (1, 0)),
    ],
)
def test_a_run_takes_a_gpu_where_there_are_some(nodes, device, share):
    asked = Compute.model_validate(COMPUTE | {"cluster": "local", "device": device})
    assert cluster._share(nodes, asked) == {"num_cpus": share[0], "num_gpus": share[1]}


def test_a_gpu_without_enough_cpus_beside_it():
    asked = Compute.model_validate(COMPUTE | {"cluster": "local", "device": "auto", "threads": 4})
    with pytest.raises(InputError, match=r"No machine of the cluster has 4 CPUs and a GPU \(the largest has 8\)"):
        cluster._share([machine(CPU=8), machine(CPU=2, GPU=1)], asked)


@pytest.mark.parametrize("cluster", [None, "local", "10.0.0.1:6379", "head.example.org:6379", "[fd00::1]:6379"])
def test_values_of_cluster(cluster):
    assert Compute.model_validate(COMPUTE | {"cluster": cluster}).cluster == cluster


@pytest.mark.parametrize("cluster", ["", "auto", "10.0.0.1", "ray://10.0.0.1:10001", "user:word@host:6379"])
def test_values_that_are_no_cluster(cluster):
    with pytest.raises(ValueError, match="cluster"):
        Compute.model_validate(COMPUTE | {"cluster": cluster})
