"""Opening, choosing cells, errors, threads, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import selfie_rs
from conftest import COLOSSEUM


def cells(rows):
    return [(row.prompt_index, row.layer, row.token) for row in rows]


def test_cells_are_chosen_in_several_ways(demo, colosseum):
    tokens = len(demo.tokens(colosseum))
    quick = dict(max_new_tokens=1, relevancy=False)
    want = [(0, layer, token) for layer in (1, 2) for token in (tokens - 3, tokens - 1)]
    for layers, chosen in [
        (range(1, 3), [-3, -1]),
        (slice(1, 3), [tokens - 3, tokens - 1]),
        (np.array([1, 2]), (token for token in (-3, -1))),
    ]:
        assert cells(demo.interpret(colosseum, layers=layers, tokens=chosen, **quick)) == want
    pairs = [(layer, token) for _, layer, token in want]
    assert cells(demo.interpret(colosseum, cells=pairs, **quick)) == want
    triples = [(0, layer, token) for layer, token in pairs] + [(1, 0, 0)]
    assert cells(demo.interpret([colosseum, "Rome"], cells=triples, **quick)) == want + [(1, 0, 0)]
    everything = demo.interpret("Rome", **quick)
    assert len(everything) == (demo.n_layers + 1) * len(demo.tokens("Rome"))


def test_rows_do_not_depend_on_the_batch(demo, colosseum):
    options = dict(layers=range(1, 5), tokens="all", controls=["none", "random"], seed=7)
    one = [row.to_dict() for row in demo.interpret(colosseum, batch_size=1, **options)]
    many = [row.to_dict() for row in demo.interpret(colosseum, batch_size=16, **options)]
    assert one == many and len(one) == 4 * len(demo.tokens(colosseum))
    assert {"none_interpretation", "none_evidence", "random_evidence"} <= one[0].keys()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m, p: m.interpret(p, layers=[99]),
            ValueError,
            "layer 99 is out of range: hidden_states has layers 0..=6",
        ),
        (lambda m, p: m.interpret(p, layers=[1], tokens=[999]), ValueError, "token 999 is out of range"),
        (lambda m, p: m.interpret(p, layers=[-9]), ValueError, "layers: -9 is out of range; there are 7"),
        (lambda m, p: m.interpret(p, cells=[(3, 1, 1)]), ValueError, "a cell names prompt 3, which is out of range"),
        (lambda m, p: m.interpret(p, cells=[(1,)]), ValueError, "cells: expected"),
        (lambda m, p: m.interpret(""), ValueError, "empty"),
        (lambda m, p: m.interpret(p, mode="swap"), ValueError, "there is no injection mode"),
        (lambda m, p: m.interpret(p, controls="nothing"), ValueError, "unknown control"),
        (lambda m, p: m.interpret(p, interpretation_prompt="sum"), ValueError, "unknown template"),
        (lambda m, p: m.interpret(p, interpretation_prompt=["no place"]), ValueError, "no placeholder"),
        (lambda m, p: m.interpret(p, inject_layer=6), ValueError, "inject layer 6 is out of range"),
        (lambda m, p: m.interpret(p, max_new_token=6), TypeError, "unexpected keyword argument 'max_new_token'"),
        (lambda m, p: m.interpret(p, batch_size="all"), TypeError, "argument 'batch_size'"),
        (lambda m, p: m.generate(p, temperature=-1), ValueError, "temperature"),
        (lambda m, p: m.interpret_vectors(np.zeros((2, 3))), ValueError, "vector 0 has 3 values"),
        (lambda m, p: m.interpret_vectors(np.full(m.d_model, np.nan)), ValueError, "expected finite numbers"),
        (lambda m, p: selfie_rs.Model.open("/nowhere/model"), FileNotFoundError, "there is no folder /nowhere/model"),
        (lambda m, p: selfie_rs.Model.open(device="tpu"), ValueError, "unknown device"),
        (lambda m, p: selfie_rs.Model.open(dtype="int3"), ValueError, "dtype"),
        (lambda m, p: selfie_rs.Model.open(edits=["/nowhere/edit"]), FileNotFoundError, "/nowhere/edit"),
        (lambda m, p: selfie_rs.Edit.open(__file__), RuntimeError, "is not a Selfie edit"),
        (lambda m, p: selfie_rs.to_html([]), ValueError, "there are no rows"),
        (lambda m, p: selfie_rs.interpret(original_prompt=p, model="a path"), TypeError, "Model.open"),
    ],
)
def test_errors_are_exceptions_with_the_programs_messages(demo, colosseum, call, error, message):
    with pytest.raises(error) as raised:
        call(demo, colosseum)
    assert message in str(raised.value)


def test_a_foreign_edit_is_refused(demo, golden):
    model = golden.open()
    case = golden.data["supervised"][0]
    edit = selfie_rs.control.supervised(
        model, [(case["source_prompt"], 1)], 2, np.zeros((1, model.d_model)), steps=1, watch_tokens=0
    ).edit
    with pytest.raises(ValueError, match="belongs to another model"):
        demo.apply(edit)
    with pytest.raises(ValueError, match="belongs to another model"):
        selfie_rs.Model.open(edits=[edit])
    assert demo.edits == []


def test_threads_may_share_a_model(demo, colosseum):
    """Each call gets the rows it would get alone."""
    def rows(layer):
        return [row.to_dict() for row in demo.interpret(colosseum, layers=[layer], tokens="all")]

    alone = [rows(layer) for layer in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(rows, range(6))) == alone


def test_an_edit_does_not_reach_what_is_running(demo, colosseum):
    model = selfie_rs.Model.open(device="cpu")
    target = np.ones(model.d_model, np.float32)
    options = dict(steps=2, lr=0.05, max_norm_change=0, watch_tokens=0, write="last")
    edit = selfie_rs.control.supervised(model, [(colosseum, 5)], 2, target, **options).edit
    unedited = [row.interpretation for row in demo.interpret(colosseum)]

    running = model.interpret(colosseum)
    model.apply(edit)
    assert [row.interpretation for row in running] == unedited
    assert [row.interpretation for row in model.interpret(colosseum)] != unedited
    assert model.edits == [edit.name]
    model.revert()
    assert [row.interpretation for row in model.interpret(colosseum)] == unedited


def test_the_gil_is_released(demo, colosseum):
    """Another thread keeps running while this one waits for a forward pass."""
    began, waits = threading.Event(), threading.Event()
    seen = []

    def other():
        began.set()
        waits.wait()
        seen.extend(sum(range(1000)) for _ in range(100))
        rows.stop()

    # Long enough that it only ends soon if the other thread stops it.
    rows = demo.interpret([colosseum] * 400)
    thread = threading.Thread(target=other)
    thread.start()
    began.wait()
    waits.set()
    rows.wait()
    thread.join()
    assert len(seen) == 100 and rows.stopped


def test_stop_keeps_the_rows_that_are_done(demo, colosseum):
    rows = demo.interpret([colosseum] * 40, batch_size=4)
    first = next(iter(rows))
    rows.stop()
    rows.wait()
    done = rows.done()
    assert rows.stopped and 0 < len(done) < len(rows)
    assert done[0].key == first.key
    assert [row.key for row in rows] == [row.key for row in done]


SWEEP = """
rows = model.interpret([text] * 400, batch_size=4)
first = next(iter(rows))
try:
    print("begun", flush=True)
    {wait}
except KeyboardInterrupt:
    for row in rows: pass
    assert rows.stopped and 0 < len(rows.done()) < len(rows) and rows.done()[0].key == first.key
    print("kept")
"""
CONTROL = """
say = lambda step: print("begun", flush=True) if step["step"] == 0 else None
try:
    selfie_rs.control.supervised(model, [(text, 5)], 2, [(text, 3, 6)], steps=10**6, on_step=say, max_norm_change=0,
                                 watch_tokens=0, write="last")
except KeyboardInterrupt as interrupt:
    assert interrupt.outcome.end == "stopped" and interrupt.outcome.updates == len(interrupt.outcome.steps) - 1
    print("kept")
"""
GENERATE = """
def say(piece):
    print("begun", flush=True)
    time.sleep(0.2)
try:
    while True:
        model.generate(text, stream=say)
except KeyboardInterrupt:
    print("kept")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    "script",
    [SWEEP.format(wait="for row in rows: pass"), SWEEP.format(wait="rows.wait()"), CONTROL, GENERATE],
    ids=["iterate", "wait", "control", "generate"],
)
def test_ctrl_c_stops_a_run_and_keeps_what_is_done(script):
    """In a separate process, so that a signal reaches it as Ctrl-C would."""
    opened = f"import time, selfie_rs\nmodel = selfie_rs.Model.open(device='cpu')\ntext = {COLOSSEUM!r}\n"
    command = [sys.executable, "-c", opened + script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert out.endswith("kept\n") and process.returncode == 0


def test_progress_is_tqdms_protocol(demo):
    calls = []

    class Bar:
        def __init__(self, total, unit):
            calls.append((total, unit))

        def update(self, n):
            calls.append(n)

        def close(self):
            calls.append("closed")

    rows = demo.interpret("Rome", layers=[1, 2], tokens=[0], progress=Bar)
    rows.wait()
    list(rows)
    assert calls == [(2, "row"), 1, 1, "closed"]


def test_the_page_shows_the_rows(demo, colosseum, tmp_path):
    rows = demo.interpret(colosseum, layers=[3], tokens=[-1], controls=["none"])
    page = selfie_rs.to_html(rows)
    assert page.startswith("<!doctype html>") and "Colosseum" in page
    assert selfie_rs.to_html([row.to_dict() for row in rows]) == page


def test_types_are_complete():
    """The stub has every public name of the module."""
    from pathlib import Path

    from selfie_rs import _selfie

    stub = (Path(_selfie.__file__).parent / "_selfie.pyi").read_text()
    for name in dir(_selfie):
        if name.startswith("__"):
            continue
        thing = getattr(_selfie, name)
        assert f"class {name}" in stub or f"def {name}" in stub, name
        assert thing.__doc__, name
        if isinstance(thing, type):
            body = stub.split(f"class {name}")[1].split("\nclass ")[0]
            for member in vars(thing):
                if not member.startswith("_"):
                    assert f"def {member}" in body or f"{member}:" in body, f"{name}.{member}"
