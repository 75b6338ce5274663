"""Records transformers' results on the demo checkpoint, in f32: python reference.py CRATE > CRATE/tests/reference.json"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "[INST] What is the capital of the country of the Colosseum? [/INST]",
    "[INST] Name the language of Peru. [/INST] Sure, I will summarize the message:",
]
# How many values of each hidden state of the last token to record.
VALUES = 8


@torch.no_grad()
def case(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model(ids, output_hidden_states=True)
    logprobs = out.logits[0, -1].log_softmax(-1)
    best = logprobs.topk(4)
    new = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1]:]
    return {
        "prompt": prompt,
        "input_ids": ids[0].tolist(),
        "hidden_states": [state[0, -1, :VALUES].tolist() for state in out.hidden_states],
        "best": [{"token": t, "logprob": p} for t, p in zip(best.indices.tolist(), best.values.tolist())],
        "new_ids": new.tolist(),
        "text": tokenizer.decode(new, skip_special_tokens=True),
    }


def main():
    folder = Path(sys.argv[1]) / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = f"xtask/demo-model/reference.py, transformers {transformers.__version__}, torch {torch.__version__}, f32"
    print(json.dumps({"source": source, "cases": [case(model, tokenizer, p) for p in PROMPTS]}, indent=1))


if __name__ == "__main__":
    main()
