"""Compares with PyTorch, transformers and SelfIE's Python package, as recorded in the repository."""

import numpy as np
import pytest
from selfie_rs import InterpretationPrompt, control, interpret, interpret_vectors


def close(found, wanted, tolerance=2e-4):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


def test_the_drop_in_returns_what_the_package_returned(golden):
    model = golden.open()
    for case in golden.data["interpret"]:
        if case.get("mode", "normalized") != "normalized" or case.get("strength", 1) != 1:
            continue
        prompt = InterpretationPrompt(None, tuple(case["interpretation_prompt"]))
        assert prompt.interpretation_prompt == case["interpretation_text"]
        result = interpret(
            original_prompt=case["prompt"],
            tokens_to_interpret=[tuple(pair) for pair in case["tokens_to_interpret"]],
            model=model,
            interpretation_prompt=prompt,
            bs=case.get("bs", 8),
            max_new_tokens=case["max_new_tokens"],
            k=case["k"],
            tokenizer=None,
        )
        assert list(result) == ["prompt", "interpretation", "layer", "token", "token_decoded", "relevancy_score"]
        for column in ("prompt", "interpretation", "layer", "token", "token_decoded"):
            assert result[column] == [row[column] for row in case["rows"]], column
        for found, row in zip(result["relevancy_score"], case["rows"]):
            close(found, row["relevancy_score"])


def test_other_modes_agree_too(golden):
    model = golden.open()
    cases = [case for case in golden.data["interpret"] if case.get("mode") == "addition"]
    assert cases
    for case in cases:
        rows = model.interpret(
            case["prompt"],
            cells=case["tokens_to_interpret"],
            interpretation_prompt=case["interpretation_prompt"],
            inject_layer=case["k"],
            mode="add",
            strength=case.get("strength", 1.0),
            max_new_tokens=case["max_new_tokens"],
        )
        assert [row.new_ids for row in rows] == [row["new_ids"] for row in case["rows"]]


def test_vectors_say_what_their_cells_say(golden):
    """The package's `interpret_vectors` on rows of hidden_states equals its `interpret` on their cells."""
    model = golden.open()
    case = golden.data["interpret"][0]
    assert case["k"] == 1
    states = model.trace(case["prompt"]).hidden_states
    vectors = [states[layer][token] for layer, token in case["tokens_to_interpret"]]
    prompt = InterpretationPrompt(None, case["interpretation_prompt"])
    texts = interpret_vectors(
        vecs=vectors, model=model, interpretation_prompt=prompt, max_new_tokens=case["max_new_tokens"]
    )
    assert texts == [row["interpretation"] for row in case["rows"]]


def test_states_agree_with_transformers(golden):
    model, tensors = golden.open(), golden.tensors()
    for case in golden.data["forward"]:
        trace = model.trace(case["prompt"])
        assert trace.input_ids.tolist() == case["input_ids"]
        for name in ("hidden_states", "pre_mlp", "residual", "logits"):
            array = getattr(trace, name)
            assert array.dtype == np.float32 and array.flags.c_contiguous
            close(array, tensors[case["tensors"] + name])


def test_texts_agree_with_transformers(golden):
    model = golden.open()
    for case in golden.data["generate"]:
        pieces = []
        text = model.generate(
            case["prompt"], max_new_tokens=case["max_new_tokens"], temperature=0, stream=pieces.append
        )
        assert text.new_ids == case["new_ids"]
        assert text.text == case["text"]
        close(text.logprobs, case["logprobs"])
        assert "".join(pieces).strip() == text.text.strip()


def published(**more):
    """The published method without bounds, which the golden runs used."""
    return dict(watch_tokens=0, max_norm_change=0, patience=0, write="last", **more)


def test_supervised_control_agrees_with_pytorch(golden):
    model = golden.open()
    case = next(case for case in golden.data["supervised"] if not case["keep_losses"])
    seen = []
    outcome = control.supervised(
        model,
        [(case["source_prompt"], case["source_token"])],
        case["source_layer"],
        [(case["target_prompt"], case["target_layer"], case["target_token"])],
        steps=case["steps"],
        lr=case["lr"],
        on_step=lambda step: seen.append(step["loss"]),
        **published(),
    )
    assert outcome.updates == case["steps"]
    losses = [step["loss"] for step in outcome.steps]
    close(losses[: case["steps"]], case["losses"], 1e-4)
    assert seen == losses
    # The model has the edit after applying it, and its original bytes after reverting it.
    before = model.trace(case["source_prompt"]).hidden_states
    model.apply(outcome.edit)
    text = model.generate(case["source_prompt"], max_new_tokens=len(case["after_new_ids"]), temperature=0)
    assert text.new_ids == case["after_new_ids"]
    model.revert()
    assert np.array_equal(model.trace(case["source_prompt"]).hidden_states, before)


def test_reinforcement_agrees_with_pytorch(golden, tmp_path):
    model = golden.open()
    (case,) = golden.data["reinforcement"]
    tokens = len(case["rewards"][0])
    asked = []

    def reward(interpretations):
        asked.append([(one["token"], one["layer"], one["prompt"]) for one in interpretations])
        return case["rewards"][interpretations[0]["step"]] if len(asked) <= len(case["rewards"]) else [0.0] * tokens

    outcome = control.reinforce(
        model,
        [(case["prompt"], token) for token in range(tokens)],
        case["source_layer"],
        reward,
        steps=len(case["rewards"]),
        lr=case["lr"],
        push="always",
        **published(),
    )
    losses = [step["loss"] for step in outcome.steps][: len(case["losses"])]
    close(losses, case["losses"], 1e-4)
    assert asked[0] == [(token, case["source_layer"], case["prompt"]) for token in range(tokens)]

    # The program accepts the file, and it is the same edit.
    path = tmp_path / "edit.safetensors"
    outcome.edit.save(path)
    edited = golden.open(edits=[path])
    model.apply(outcome.edit)
    prompt = case["prompt"]
    assert np.array_equal(edited.trace(prompt).logits, model.trace(prompt).logits)
    assert edited.edits == [str(path)]


def test_what_a_reward_raises_is_raised(golden):
    model = golden.open()

    def reward(interpretations):
        if interpretations[0]["step"] == 1:
            raise LookupError("no such judge")
        return [-1.0] * len(interpretations)

    sources = [(golden.data["reinforcement"][0]["prompt"], 1)]
    with pytest.raises(LookupError, match="no such judge") as raised:
        control.reinforce(model, sources, 2, reward, steps=3, lr=1e-4, push="always", **published())
    # The update before the exception is kept.
    assert raised.value.outcome.updates == 1
    with pytest.raises(RuntimeError, match="reward"):
        control.reinforce(model, sources, 2, lambda interpretations: [], steps=3)
