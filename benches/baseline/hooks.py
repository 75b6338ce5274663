"""A sweep with PyTorch and transformers, as programs with hooks usually do it.

A batch of cells decodes with a KV cache while a hook writes each cell's embedding over the placeholders in the prompt
pass; relevancies take two more passes over prompt and text, one of them with the hook.
"""

import json
import os

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

INTERPRETATION = ["[INST]", 0, 0, 0, 0, 0, "[/INST] Sure, I will summarize the message:"]
INJECT_LAYER = 1


def open_model(folder, dtype, device):
    """The model and the tokenizer of a checkpoint."""
    with open(os.path.join(folder, "tokenizer_config.json")) as file:
        names = json.load(file)
    special = {name: names[name] for name in ["bos_token", "eos_token"] if isinstance(names.get(name), str)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=os.path.join(folder, "tokenizer.json"), model_input_names=["input_ids", "attention_mask"], **special
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    return model, tokenizer


def greedy(model, ids, new_tokens):
    """The next `new_tokens` ids of each row."""
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    chosen = [out.logits[:, -1].argmax(-1)]
    while len(chosen) < new_tokens:
        out = model(input_ids=chosen[-1][:, None], past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        chosen.append(out.logits[:, -1].argmax(-1))
    return torch.stack(chosen, 1)


def located(tokenizer):
    """The ids of the interpretation prompt, and where its placeholders are."""
    text, places = "", []
    for part in INTERPRETATION:
        before = len(tokenizer(text)["input_ids"])
        text += "_ " if part == 0 else part
        if part == 0:
            places += range(before, len(tokenizer(text)["input_ids"]))
    return tokenizer(text)["input_ids"], places


@torch.no_grad()
def sweep(model, tokenizer, prompt, cells, new_tokens, batch):
    """Texts and relevancies of all (layer, token) cells: for each batch, one `[batch, new_tokens]` tensor of each."""
    device = model.device
    source = torch.tensor([tokenizer(prompt)["input_ids"]], device=device)
    states = model.model(input_ids=source, output_hidden_states=True).hidden_states
    ids, places = located(tokenizer)
    ids, places = torch.tensor([ids], device=device), torch.tensor(places, device=device)
    vectors = None

    def inject(_, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if vectors is not None and hidden.shape[1] > 1:
            hidden[:, places] = vectors[:, None]

    hook = model.model.layers[INJECT_LAYER].register_forward_pre_hook(inject, with_kwargs=True)
    results = []
    for at in range(0, len(cells), batch):
        group = cells[at : at + batch]
        vectors = torch.stack([states[layer][0, token] for layer, token in group])
        prompts = ids.expand(len(group), -1)
        text = greedy(model, prompts, new_tokens)
        whole = torch.cat([prompts, text], 1)
        with_it = probabilities(model, whole, text)
        vectors = None
        without = probabilities(model, whole, text)
        results.append((text, (with_it - without).abs()))
    hook.remove()
    return results


def probabilities(model, whole, text):
    """The probability of each token of a text, given everything before it."""
    logits = model(input_ids=whole[:, :-1], use_cache=False, logits_to_keep=text.shape[1]).logits
    logprobs = torch.stack([row.float().log_softmax(-1) for row in logits])
    return logprobs.gather(-1, text[..., None])[..., 0].exp()
