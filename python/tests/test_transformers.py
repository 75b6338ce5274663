"""Compares with transformers and torch, if they are installed."""

import os

import numpy as np
import pytest
import selfie_rs

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing to compare with")


@pytest.fixture(scope="module")
def path(golden):
    """`SELFIE_MODEL`, a folder with weights of any size; the golden checkpoint by default."""
    return os.environ.get("SELFIE_MODEL", str(golden.path))


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ours(path):
    return selfie_rs.Model.open(path, device="cpu", dtype="f32")


PROMPT = "[INST] What's highest mountain in the world? [/INST]"
SEQUENCE = ("[INST]", 0, 0, 0, 0, 0, "[/INST] Sure, I will summarize the message:")


def test_states(ours, theirs, path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    trace = ours.trace(PROMPT)
    assert trace.input_ids.tolist() == ids[0].tolist()
    with torch.no_grad():
        output = theirs(ids, output_hidden_states=True)
    for layer, states in enumerate(output.hidden_states):
        want = states[0].numpy()
        assert np.abs(trace.hidden_states[layer] - want).max() <= 2e-4 * np.abs(want).max(), layer
    logits = output.logits[0].numpy()
    assert np.abs(trace.logits - logits).max() <= 2e-4 * np.abs(logits).max()


def test_the_example_of_the_package_runs(ours, theirs, path):
    """README.md of tonychenxyz/selfie; only the import and the model line changed."""
    from selfie_rs.interpret import InterpretationPrompt, interpret

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = ours
    interpretation_prompt = InterpretationPrompt(tokenizer, SEQUENCE)

    original_prompt = PROMPT
    tokens_to_interpret = [(2, 5), (3, 6)]
    bs = 2
    max_new_tokens = 10
    k = 1

    interpretation_df = interpret(original_prompt=original_prompt, tokens_to_interpret=tokens_to_interpret, model=model, interpretation_prompt=interpretation_prompt, bs=bs, max_new_tokens=max_new_tokens, k=k, tokenizer=tokenizer)  # fmt: skip

    assert interpretation_df["interpretation"] == [
        by_hooks(theirs, tokenizer, interpretation_prompt, pair, k, max_new_tokens) for pair in tokens_to_interpret
    ]


def by_hooks(model, tokenizer, prompt, pair, k, max_new_tokens):
    """The method in a few lines of PyTorch: the embedding replaces the rows at the input of layer k."""
    layer, token = pair
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        vector = model(ids, output_hidden_states=True).hidden_states[layer][0, token].clone()

    def write(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] > 1:
            hidden[:, prompt.insert_locations] = vector

    hook = model.model.layers[k].register_forward_pre_hook(write, with_kwargs=True)
    try:
        inputs = tokenizer(prompt.interpretation_prompt, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
    finally:
        hook.remove()
    return tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def test_another_tokenizer_is_told_of(ours):
    class Other:
        def encode(self, text):
            return [1, 2, 3]

    prompt = selfie_rs.InterpretationPrompt(None, SEQUENCE)
    with pytest.raises(ValueError, match="the tokenizer reads"):
        selfie_rs.interpret(
            original_prompt=PROMPT, tokenizer=Other(), model=ours, interpretation_prompt=prompt, tokens_to_interpret=[(1, 1)]
        )
