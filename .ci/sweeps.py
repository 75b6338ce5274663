"""Runs the script of docs/src/sweeps.md for GNU parallel, and loads the rows in pandas, polars and DuckDB.

sweeps.py SELFIE FOLDER: the program, and a folder for the results. pip installs the libraries into FOLDER/venv once."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ["pandas==3.1.1", "pyarrow==26.0.1", "polars==2.1.0", "duckdb==2.0.1"]
PROMPTS = [
    "[INST] What is the capital of the country of the Colosseum? [/INST]",
    'Rome, "the eternal city", is old',
    "two\nlines, and a tab\there",
    "ünïcode: 山, \U0001f600, שלום",
]
LISTS = {"relevancy_score": "float", "logprobs": "float", "new_ids": "int", "pieces": "str"}


def main(program, folder):
    python = folder / "venv/bin/python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    work = folder / "work"
    work.mkdir(parents=True)
    write_prompts(work / "prompts.csv")
    run_parallel(program, work)
    for name in ["rows.jsonl", "rows.csv"]:
        selfie(program, work, "merge", "sweep", "--out", name)
    # The same without shards.
    selfie(program, work, "sweep", "--prompts", "prompts.csv", "--layers", "all", "--tokens", "last", "--out", "whole")
    selfie(program, work, "merge", "whole", "--out", "whole.jsonl")
    assert (work / "rows.jsonl").read_bytes() == (work / "whole.jsonl").read_bytes()
    subprocess.run([python, __file__, "--load", work], check=True)


def write_prompts(path):
    quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in PROMPTS]
    path.write_text("prompt\n" + "\n".join(quoted) + "\n", encoding="utf-8")


def run_parallel(program, work):
    """Runs the documentation's script as it stands."""
    text = (Path(__file__).parent.parent / "docs/src/sweeps.md").read_text(encoding="utf-8")
    script = re.search(r"```sh,parallel\n(.*?)```", text, re.DOTALL).group(1)
    path = f"{program.parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=work, env={**os.environ, "PATH": path}, check=True)
    shards = sorted(path.name for path in (work / "sweep").iterdir())
    assert shards == [f"shard-{i:04}-of-0004" for i in range(1, 5)], shards


def selfie(program, work, *args):
    subprocess.run([program, args[0], "--quiet", *args[1:]], cwd=work, check=True)


def load(work):
    """Each library reads each file: lists are lists, floats are float32, ids are integers, and texts are intact."""
    import duckdb
    import pandas
    import polars
    import pyarrow.parquet

    lines = (work / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    want = [json.loads(line) for line in lines if line]
    assert {row["prompt"] for row in want} == set(PROMPTS)
    parts = str(work / "sweep/shard-*/part-*.parquet")

    # Parquet has types of its own.
    schema = pyarrow.parquet.read_schema(work / "rows.parquet")
    for name, kind in LISTS.items():
        item = schema.field(name).type.value_type
        is_right = {"float": pyarrow.types.is_float32, "int": pyarrow.types.is_int64, "str": pyarrow.types.is_string}
        assert is_right[kind](item), (name, item)
    same("pandas parquet", records_of_pandas(pandas.read_parquet(work / "rows.parquet")), want)
    frame = polars.read_parquet(work / "rows.parquet")
    assert frame.schema["relevancy_score"] == polars.List(polars.Float32), frame.schema
    assert frame.schema["new_ids"] == polars.List(polars.Int64), frame.schema
    assert frame.schema["token"] == polars.Int64, frame.schema
    same("polars parquet", frame.to_dicts(), want)
    same("polars parts", polars.read_parquet(parts).to_dicts(), want)
    for source in [str(work / "rows.parquet"), parts]:
        table = duckdb.sql(f"SELECT * FROM read_parquet('{source}')")
        types = dict(zip(table.columns, map(str, table.types)))
        assert types["relevancy_score"] == "FLOAT[]" and types["new_ids"] == "BIGINT[]", types
        same("duckdb parquet", records_of_duckdb(table), want)

    # JSON has numbers, and lists of them.
    same("pandas jsonl", records_of_pandas(pandas.read_json(work / "rows.jsonl", lines=True, dtype=False)), want)
    same("polars jsonl", polars.read_ndjson(work / "rows.jsonl").to_dicts(), want)
    same("duckdb jsonl", records_of_duckdb(duckdb.sql(f"SELECT * FROM read_json('{work}/rows.jsonl')")), want)

    # CSV has texts: lists are JSON in it.
    texts = {name: str for name in ["key", "prompt"]}
    lists_in(pandas.read_csv(work / "rows.csv", dtype=texts).to_dict("records"), "pandas csv", want)
    lists_in(polars.read_csv(work / "rows.csv", schema_overrides={"key": polars.String}).to_dicts(), "polars csv", want)
    table = duckdb.sql(f"SELECT * FROM read_csv('{work}/rows.csv', types={{'key': 'VARCHAR'}})")
    lists_in(records_of_duckdb(table), "duckdb csv", want)
    print(f"{len(want)} rows are the same in pandas, polars and DuckDB")


def records_of_pandas(frame):
    def plain(value):
        return value.tolist() if hasattr(value, "tolist") else value

    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def records_of_duckdb(table):
    return [dict(zip(table.columns, row)) for row in table.fetchall()]


def lists_in(rows, what, want):
    for row in rows:
        for name in LISTS:
            row[name] = json.loads(row[name])
    same(what, rows, want)


def same(what, rows, want):
    """Floats are compared as the float32 they are."""
    import numpy

    assert len(rows) == len(want), (what, len(rows), len(want))
    for row, expected in zip(rows, want):
        for name, value in expected.items():
            got = row[name]
            if value is None:
                assert got is None or got != got, (what, name, got)
            elif LISTS.get(name) == "float" or name == "strength":
                assert numpy.array_equal(numpy.float32(got), numpy.float32(value)), (what, name, got, value)
            else:
                assert got == value and type(got) in (type(value), numpy.int64), (what, name, got, value)


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        load(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
