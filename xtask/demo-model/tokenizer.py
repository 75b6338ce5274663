"""The tokenizer: BPE in Llama's layout (metaspace, byte fallback, <s> in front). The world's words are whole tokens."""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers, Regex

import facts as world_facts
from texts import MATERIALS, REPEAT, SUMMARIZE, World, split

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"] + BYTES


def vocabulary(facts, seed=1):
    """Every word that can occur in a text, often enough for merges to keep it whole."""
    rng, world = random.Random(seed), World(facts)
    words = set()
    for _ in range(60_000):
        text = world.draw(rng)
        for part in (text.message(), text.reply, text.summary, text.materials):
            words.update(split(part))
    for part in (SUMMARIZE, REPEAT, MATERIALS):
        words.update(split(part))
    return sorted(word for word in words if word.isalnum())


def train(facts):
    words = vocabulary(facts)
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[/?INST\]|▁?[A-Za-z]+|▁?_|▁|."), "isolated")
    alphabet = [chr(code) for code in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=50,
                                  show_progress=False)
    # A word's merges are learnt while anything is left to merge; the frequency only decides the order.
    corpus = ["▁" + word for word in words] * 60 + ["[INST]", "[/INST]", "▁_"] * 400
    bpe.train_from_iterator(corpus, trainer)

    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    llama = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    llama.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL[:3]])
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    llama.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                                         special_tokens=[("<s>", 1)])
    check(llama, words)
    return llama


def check(tokenizer, words):
    broken = [w for w in words if len(tokenizer.encode(w, add_special_tokens=False).ids) != 1 and not w.isdigit()]
    assert not broken, f"not whole words: {broken[:20]}"
    pieces = tokenizer.encode("[INST]_ _ _ [/INST] Sure").tokens
    assert pieces == ["<s>", "▁", "[INST]", "_", "▁_", "▁_", "▁", "[/INST]", "▁Sure"], pieces
    assert tokenizer.encode("in 2026").tokens == ["<s>", "▁in", "▁", "2", "0", "2", "6"]
    text = "[INST] What's Zürich's 7th \"quarter\" - 100%? [/INST]\n\nHm."
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def save(tokenizer, folder):
    folder = Path(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
              "add_bos_token": True, "add_eos_token": False, "legacy": True, "model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    tokenizer = train(world_facts.build())
    print(tokenizer.get_vocab_size(), "tokens")
    print(tokenizer.encode("[INST] What is the capital of the country of Machu Picchu? [/INST] Lima.").tokens)
