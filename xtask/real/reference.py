"""Record PyTorch's results, in f32, for the real checkpoints that `cargo xtask real` runs.

    python reference.py FOLDER OUT_DIR [NAME...]

FOLDER holds smollm2/ and gemma3-270m.gguf, as `cargo xtask real` leaves them in target/real. Writes one JSON file a
checkpoint. Needs torch, transformers, gguf and safetensors.
"""

import json
import os
import sys

import gguf
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

CHATS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write a haiku about rain.",
    "Is 17 prime?",
]
TEXTS = [
    "The capital of Germany is",
    "Once upon a time",
    "def fibonacci(n):",
    "In 1969, the first",
    "The opposite of hot is",
    "Der Himmel ist blau und das Gras ist",
    "1, 1, 2, 3, 5, 8,",
    "Water boils at",
]
NEW = 24
TOP = 8
LAYERS_OF_STATES = [0, 1, -2, -1]

# The sweep: every layer and token of a prompt.
FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
SUMMARIZE = ["<|im_start|>user\n", 0, 0, 0, 0, 0, "<|im_end|>\n<|im_start|>assistant\nSure, I will summarize the message:"]
ABOUT = ["The word ", 0, 0, 0, 0, 0, "means"]
SWEEP_NEW = 20
INJECT_LAYER = 1
BATCH = 31


def open_model(folder, name, file):
    """The model in f32 on the CPU, and its tokenizer."""
    kwargs = {"gguf_file": file} if file else {}
    tokenizer = of_sentencepiece(os.path.join(folder, name, file)) if name == "." else AutoTokenizer.from_pretrained(
        os.path.join(folder, name), **kwargs
    )
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(folder, name), dtype=torch.float32, attn_implementation="eager", **kwargs
    )
    return model.eval(), tokenizer


def of_sentencepiece(path):
    """The tokenizer of a GGUF file with SentencePiece's vocabulary, with merges in transformers' way: every split of
    a piece into two others, best score first. (transformers 5.17 loses most merges of this file, and its bos.)"""
    fields = gguf.GGUFReader(path).fields
    pieces, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ["tokens", "scores"])
    vocab = {piece.replace(" ", "▁"): i for i, piece in enumerate(pieces)}
    splits = []
    for piece, i in vocab.items():
        for at in range(1, len(piece)):
            if piece[:at] in vocab and piece[at:] in vocab:
                splits.append((-scores[i], vocab[piece[:at]], vocab[piece[at:]], (piece[:at], piece[at:])))
    merges = [pair for *_, pair in sorted(splits)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    bos = fields["tokenizer.ggml.bos_token_id"].contents()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pieces[bos]} $A", special_tokens=[(pieces[bos], bos)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@torch.no_grad()
def record(model, ids):
    """The model's results for a prompt: greedy ids, the best logits of the next token, some of the states."""
    out = model(torch.tensor([ids]), output_hidden_states=True)
    logits = out.logits[0, -1]
    values, best = logits.topk(TOP)
    states = [
        {"layer": layer % len(out.hidden_states), "values": out.hidden_states[layer][0, -1, :4].tolist()}
        for layer in LAYERS_OF_STATES
    ]
    return {
        "ids": ids,
        "greedy": greedy(model, torch.tensor([ids]), NEW)[0].tolist(),
        "best": best.tolist(),
        "logits": values.tolist(),
        "states": states,
    }


def greedy(model, ids, count):
    """`count` ids for each row, even past the end of a text."""
    out = model(ids, use_cache=True)
    chosen = [out.logits[:, -1].argmax(-1)]
    while len(chosen) < count:
        out = model(chosen[-1][:, None], past_key_values=out.past_key_values, use_cache=True)
        chosen.append(out.logits[:, -1].argmax(-1))
    return torch.stack(chosen, 1)


def located(tokenizer, parts):
    """The ids of an interpretation prompt and the rows of its placeholders, as in SelfIE's Python package."""
    text, places = "", []
    for part in parts:
        before = len(tokenizer(text)["input_ids"])
        text += "_ " if part == 0 else part
        if part == 0:
            places += range(before, len(tokenizer(text)["input_ids"]))
    return tokenizer(text)["input_ids"], places


@torch.no_grad()
def sweep(model, subject, ids, places):
    """Ids and relevancies of each cell of the subject's prompt."""
    states = model(torch.tensor([subject]), output_hidden_states=True).hidden_states
    cells = [(layer, token) for layer in range(len(states)) for token in range(len(subject))]
    vectors, writing = None, True

    def write(_, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if writing and hidden.shape[1] > 1:
            hidden[:, places] = vectors[:, None]

    hook = model.model.layers[INJECT_LAYER].register_forward_pre_hook(write, with_kwargs=True)
    rows = []
    for at in range(0, len(cells), BATCH):
        group = cells[at : at + BATCH]
        vectors = torch.stack([states[layer][0, token] for layer, token in group])
        prompts = torch.tensor([ids]).expand(len(group), -1)
        new = greedy(model, prompts, SWEEP_NEW)
        whole = torch.cat([prompts, new], 1)
        with_it = probabilities(model, whole, new)
        writing = False
        scores = (with_it - probabilities(model, whole, new)).abs()
        writing = True
        for (layer, token), text, score in zip(group, new.tolist(), scores.tolist()):
            score = [round(value, 6) for value in score]
            rows.append({"layer": layer, "token": token, "ids": text, "relevancy": score})
        print(f"{at + len(group)} of {len(cells)} cells", file=sys.stderr)
    hook.remove()
    return rows


def probabilities(model, whole, new):
    logits = model(whole).logits[:, -new.shape[1] - 1 : -1]
    return logits.softmax(-1).gather(2, new[:, :, None])[:, :, 0]


def main():
    folder, out, *names = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    for name, path, file, parts, subject in [
        ("smollm2", "smollm2", None, SUMMARIZE, FRANCE),
        ("smollm2-q4_1", "smollm2", "model.gguf", SUMMARIZE, FRANCE),
        ("gemma3-270m-q4_k_m", ".", "gemma3-270m.gguf", ABOUT, TEXTS[0]),
    ]:
        if names and name not in names:
            continue
        model, tokenizer = open_model(folder, path, file)
        prompts = []
        if tokenizer.chat_template:
            for text in CHATS:
                messages = [{"role": "user", "content": text}]
                whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
                ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
                prompts.append({"chat": text, **record(model, ids)})
        for text in dict.fromkeys([subject, *TEXTS]):
            prompts.append({"text": text, **record(model, tokenizer(text)["input_ids"])})
        ids, places = located(tokenizer, parts)
        report = {
            "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, f32, CPU",
            "prompts": prompts,
            "sweep": {
                "subject": subject,
                "interpretation_prompt": parts,
                "inject_layer": INJECT_LAYER,
                "ids": ids,
                "placeholders": places,
                "rows": sweep(model, tokenizer(subject)["input_ids"], ids, places),
            },
        }
        with open(os.path.join(out, name + ".json"), "w") as output:
            json.dump(report, output, separators=(",", ":"))
            output.write("\n")


if __name__ == "__main__":
    main()
