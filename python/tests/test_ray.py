"""On a local Ray cluster: several workers, one that dies, and a node that joins later."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")
pa = pytest.importorskip("pyarrow")

from ray.cluster_utils import Cluster  # noqa: E402

PLACES = ["Colosseum", "Eiffel Tower", "Brandenburg Gate", "Acropolis"]
OPTIONS = dict(layers=[1, 3], tokens=[-3, -1], controls=["random"], seed=5)


@pytest.fixture(scope="module")
def prompts():
    texts = [f"[INST] What is the capital of the country of the {place}? [/INST]" for place in PLACES]
    return pa.table({"id": range(24), "prompt": [f"{texts[i % 4]} {i}" for i in range(24)]})


@pytest.fixture(scope="module")
def alone(demo, prompts):
    """The rows of a single process, with the ids of their prompts."""
    rows = demo.interpret(prompts["prompt"].to_pylist(), **OPTIONS).to_arrow()
    ids = prompts["id"].take(rows["prompt_index"])
    return by_key(rows.drop_columns("prompt_index").append_column("id", ids))


def by_key(table):
    rows = table.to_pylist()
    keys = {row["key"]: row for row in rows}
    assert len(keys) == len(rows)
    return keys


@pytest.fixture
def cluster(request):
    """A head node with some CPUs, to which nodes can be added."""
    head = {"num_cpus": request.param, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def interpreter(folder, fails=False, waits_for_nodes=0):
    """The worker, instrumented for the test. Defined here, so that Ray sends it by value."""
    from selfie_rs.ray import Interpreter

    class Watched(Interpreter):
        def __call__(self, batch):
            dead = Path(folder, "dead")
            batches = Path(folder, f"batches-{os.getpid()}")
            batches.open("a").write("x")
            if fails and len(batches.read_text()) == 2 and not dead.exists():
                # Like the kernel ending a process that has taken too much memory.
                dead.touch()
                os.kill(os.getpid(), 9)
            # Wait until the second node has a worker.
            Path(folder, f"node-{ray.get_runtime_context().get_node_id()}").touch()
            while len(list(Path(folder).glob("node-*"))) < waits_for_nodes:
                time.sleep(0.1)
            return super().__call__(batch)

    return Watched


def rows_of(worker, prompts, workers):
    # Use ready-made blocks: workers hold all CPUs, so no task could split them.
    data = ray.data.from_arrow([prompts.slice(at, 2) for at in range(0, len(prompts), 2)])
    options = dict(fn_constructor_kwargs=dict(open=dict(device="cpu"), **OPTIONS), batch_size=2)
    tables = data.map_batches(worker, concurrency=workers, num_cpus=1, **options).to_arrow_refs()
    table = pa.concat_tables([table for table in ray.get(tables) if len(table)])
    assert table["prompt_index"].null_count == len(table)
    return by_key(table.drop_columns("prompt_index"))


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_several_workers_give_the_rows_of_one_process(cluster, tmp_path, prompts, alone):
    assert rows_of(interpreter(tmp_path), prompts, 2) == alone
    assert len(list(tmp_path.glob("batches-*"))) == 2


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_a_worker_that_dies_takes_no_row_along(cluster, tmp_path, prompts, alone):
    assert rows_of(interpreter(tmp_path, fails=True), prompts, 2) == alone
    # The worker was killed, and another replaced it.
    assert (tmp_path / "dead").exists() and len(list(tmp_path.glob("batches-*"))) == 3


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_node_that_comes_later_is_used(cluster, tmp_path, prompts, alone):
    with ThreadPoolExecutor(1) as other:
        rows = other.submit(rows_of, interpreter(tmp_path, waits_for_nodes=2), prompts, (1, 2))
        # The first worker has started, and holds the head's only CPU.
        while not list(tmp_path.glob("node-*")) and not rows.done():
            time.sleep(0.1)
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        assert rows.result() == alone
    assert len(list(tmp_path.glob("node-*"))) == 2
