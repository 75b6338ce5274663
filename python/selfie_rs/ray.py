"""Interpretation on many machines with Ray Data.

    import ray
    from selfie_rs.ray import Interpreter

    (ray.data.read_parquet("prompts/")                      # a column "prompt", and others to keep
        .map_batches(Interpreter,
                     fn_constructor_kwargs=dict(model="path/to/model", layers=range(4, 12), tokens=[-1]),
                     batch_size=64, concurrency=4, num_cpus=8)
        .write_parquet("rows/"))

Each worker has one model. A row is the same on any worker and in any batch, and its `key` identifies the cell. So the
order does not matter, and if Ray runs a batch twice, it gives the same rows twice.
"""

import pyarrow as pa

from selfie_rs._selfie import Model

__all__ = ["Interpreter"]


class Interpreter:
    """A class for `Dataset.map_batches`. Takes batches with a column of prompts, returns Arrow tables of rows.

    `model`: the path of its files on every node, or `org/name` in each node's cache; None is the demo checkpoint.
    `prompt`: the name of the column of prompts. Other columns are kept: each value repeats for all rows of its prompt.
    `open`: a dict of `Model.open`'s keywords. By default there are as many threads as CPUs that Ray gives the worker
    (`num_cpus`). `options`: `cells`, `layers`, `tokens` and the other keywords of `Model.interpret`.

    Rows have the columns of `Rows.to_arrow()`. `prompt_index` is null unless the input has such a column, since the
    position of a prompt in its batch means nothing.
    """

    def __init__(self, model=None, *, prompt="prompt", open=None, **options):
        self.prompt = prompt
        self.options = options
        self.model = Model.open(model, **{"threads": _assigned_cpus(), **(open or {})})

    def __call__(self, batch):
        if not isinstance(batch, pa.Table):
            batch = pa.table(batch)
        rows = self.model.interpret(batch[self.prompt].to_pylist(), **self.options).to_arrow()
        origin = rows["prompt_index"]
        at = rows.column_names.index("prompt_index")
        rows = rows.set_column(at, pa.field("prompt_index", pa.int64()), pa.nulls(len(rows), pa.int64()))
        for name in batch.column_names:
            if name == "prompt_index":
                rows = rows.set_column(at, pa.field(name, pa.int64()), batch[name].take(origin).cast(pa.int64()))
            elif name != self.prompt:
                if name in rows.column_names:
                    raise ValueError(f"the input's column {name!r} is also a column of rows; rename it")
                rows = rows.append_column(name, batch[name].take(origin))
        return rows


def _assigned_cpus():
    """The CPUs that Ray gives this worker, at least 1; None (all cores) outside of Ray."""
    import ray

    if not ray.is_initialized():
        return None
    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))
