"""Rows as tables, in each library that reads Arrow; vectors from numpy, torch and DLPack."""

import json
import os
import subprocess

import numpy as np
import pytest
import selfie_rs


@pytest.fixture(scope="module")
def rows(demo):
    prompt = "[INST] What is the capital of the country of the Colosseum? [/INST]"
    rows = demo.interpret(prompt, layers=[1, 3], tokens=[-2, -1], controls=["none"])
    rows.wait()
    return rows


@pytest.fixture(scope="module")
def dicts(rows):
    return [row.to_dict() for row in rows]


def test_pyarrow(rows, dicts):
    pa = pytest.importorskip("pyarrow")
    table = rows.to_arrow()
    table.validate(full=True)
    assert table.column_names == list(dicts[0])
    assert table.schema.equals(pa.schema(rows))
    assert json.loads(json.dumps(table.to_pylist())) == json.loads(json.dumps(dicts))


def test_pandas(rows, dicts):
    pytest.importorskip("pandas")
    frame = rows.to_pandas()
    assert list(frame.columns) == list(dicts[0])
    assert frame.interpretation.tolist() == [row["interpretation"] for row in dicts]
    assert frame.relevancy_score.tolist() == [row["relevancy_score"] for row in dicts]
    assert frame.groupby("layer").size().to_dict() == {1: 2, 3: 2}


def test_polars(rows, dicts):
    polars = pytest.importorskip("polars")
    assert polars.DataFrame(rows)["pieces"].to_list() == [row["pieces"] for row in dicts]


def test_duckdb(rows, dicts):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql("select layer, token, none_evidence from rows where layer = 3 order by token").fetchall()
    assert found == [(3, row["token"], row["none_evidence"]) for row in dicts if row["layer"] == 3]


def test_no_rows_have_columns_all_the_same(demo):
    pytest.importorskip("pyarrow")
    table = demo.interpret([]).to_arrow()
    assert table.num_rows == 0 and "interpretation" in table.column_names


def test_the_programs_rows_are_the_same(rows, dicts, tmp_path):
    """Equals the output of `selfie interpret`, cell by cell, as JSON lines and as Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet")
    program = os.environ.get("SELFIE_BIN")
    if not program:
        pytest.skip("SELFIE_BIN does not name the program")
    prompt = dicts[0]["prompt"]
    last = dicts[-1]["token"]
    for name in ("rows.jsonl", "rows.parquet"):
        command = ["interpret", "--device", "cpu", "--prompt", prompt, "--layers", "1,3", "--controls", "none"]
        command += ["--tokens", f"{last - 1},{last}", "--out", str(tmp_path / name), "--quiet"]
        subprocess.run([program, *command], check=True)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    same = lambda rows: [{k: np.asarray(v).tolist() if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    as_f32 = lambda row: {k: _f32(v) for k, v in row.items()}
    assert [as_f32(json.loads(line)) for line in lines] == [as_f32(row) for row in same(dicts)]
    assert parquet.read_table(tmp_path / "rows.parquet").equals(rows.to_arrow())
    # A file from the program is shown as it is.
    assert selfie_rs.to_html(tmp_path / "rows.parquet").startswith("<!doctype html>")


def _f32(value):
    """JSON has as many digits as an f32 needs; read as f32, they restore the number."""
    if isinstance(value, float):
        return np.float32(value)
    if isinstance(value, list):
        return [_f32(one) for one in value]
    return value


@pytest.fixture(scope="module")
def vectors(demo):
    return demo.trace("Rome is the capital of").hidden_states[3]


def texts(model, vectors):
    return [row.interpretation for row in model.interpret_vectors(vectors, max_new_tokens=8)]


def test_vectors_of_numpy(demo, vectors):
    want = texts(demo, vectors)
    assert len(want) == len(vectors) and len(set(want)) > 1
    assert texts(demo, list(vectors)) == want
    assert texts(demo, np.asfortranarray(vectors)) == want
    assert texts(demo, vectors.astype(np.float64)) == want
    assert texts(demo, vectors[1]) == want[1:2]
    assert texts(demo, vectors[::2]) == want[::2]
    with pytest.raises(ValueError, match="expected numbers"):
        texts(demo, np.array(["a"]))


def test_vectors_of_dlpack(demo, vectors):
    class OnlyDLPack:
        def __dlpack__(self, **options):
            return vectors.__dlpack__(**options)

        def __dlpack_device__(self):
            return vectors.__dlpack_device__()

    assert texts(demo, OnlyDLPack()) == texts(demo, vectors)


def test_vectors_of_torch(demo, vectors):
    torch = pytest.importorskip("torch", reason="torch is not installed: its tensors are not tested")
    want = texts(demo, vectors)
    tensor = torch.from_numpy(vectors)
    assert texts(demo, tensor) == want
    assert texts(demo, tensor.requires_grad_()) == want
    # The demo runs in bf16, but its residual stream does not: rounding may change words, and nothing else.
    rounded = tensor.detach().bfloat16()
    assert texts(demo, rounded) == texts(demo, rounded.float())


def test_trace_hands_over_what_it_wrote(demo):
    """The arrays own their data: they are writable, and outlive the trace."""
    states = demo.trace("Rome").hidden_states
    assert states.flags.writeable and states.flags.c_contiguous and states.base is not None
    states[0] = 0
    assert not states[0].any() and states[1].any()
