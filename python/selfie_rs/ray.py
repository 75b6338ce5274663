"""Interpretation on many machines, by Ray Data.

    import ray
    from selfie_rs.ray import Interpreter

    (ray.data.read_parquet("prompts/")                      # a column "prompt", and what else should come along
        .map_batches(Interpreter,
                     fn_constructor_kwargs=dict(model="path/to/model", layers=range(4, 12), tokens=[-1]),
                     batch_size=64, concurrency=4, num_cpus=8)
        .write_parquet("rows/"))

One model a worker. A row is the same on any worker and in any batch, and its `key` says what it is of, so that order does not
matter, and a batch that Ray runs twice gives the same rows twice.
"""

import pyarrow as pa

from selfie_rs._selfie import Model

__all__ = ["Interpreter"]


class Interpreter:
    """A class for `Dataset.map_batches`: batches with a column of prompts in, Arrow tables of rows out.

    `model`: the path of its files on every node, or `org/name` of each node's cache; None is the demo checkpoint.
    `prompt`: the name of the prompts' column; the others come along, each value with all rows of its prompt. `open`: a
    dict of `Model.open`'s keywords; threads are as many as the CPUs that Ray gives the worker (`num_cpus`). `options`:
    `cells`, `layers`, `tokens` and the other keywords of `Model.interpret`.

    Rows have the columns of `Rows.to_arrow()`. `prompt_index` is null unless it is a column of the input: the place of a
    prompt in its batch says nothing.
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
                    raise ValueError(f"the column {name!r} of the input is one of the rows, too: rename it")
                rows = rows.append_column(name, batch[name].take(origin))
        return rows


def _assigned_cpus():
    """The CPUs that Ray gives this worker, at least 1; None outside of Ray: all cores."""
    import ray

    if not ray.is_initialized():
        return None
    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))
