"""Writes tokenizer.json: small tokenizers as a GGUF file has them, and the ids that their originals give.

    pip install tokenizers==0.22.1 sentencepiece==0.2.3 && python tokenizer.py

Byte-level ones are trained by the `tokenizers` package behind the steps that the named models' own tokenizer.json has.
Those of SentencePiece are trained and asked by that package itself. Nothing of a published model is in it.
"""

import json
import random
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

PAGE = Path(__file__).read_text() + """
The capital of France is Paris, and the capital of Germany is Berlin. She didn't say that they'll come; we've seen it.
In 1999 the 2nd of 12345 people paid 3.14159 euros. HELLO World, CamelCase and snake_case_names(x, y) == {"a": [1, 2]}!
Größe, naïve, déjà vu, señor; привет, мир; 東京は日本の首都です。 한국어 문장 \U0001f642\U0001f680.
    indented text\tand tabs\n\n\nand lines   with   spaces   between.
"""
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LLAMA3 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# Names in GGUF with the steps of a model that has them: Llama 3, Qwen 2.5, SmolLM2, GPT-2, GPT-4o, Mistral Nemo, OLMo 2.
BYTE_LEVEL = {
    "llama-bpe": (split(LLAMA3), None, True),
    "qwen2": (split(QWEN2), normalizers.NFC(), False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]), None, False),
    "gpt-2": (GPT2, None, False),
    "gpt-4o": (split(GPT4O), None, False),
    "tekken": (split(TEKKEN), None, True),
    "dbrx": (split(LLAMA3), None, False),
}
SPECIAL = ["<|begin|>", "<|end|>"]
ADDED = "<tool>"


def texts(rng, n):
    words = PAGE.split(" ") + ["", " ", "\n", "\n\n", "\t", "123456", "I'LL", "we'VE", "e\u0301", "ﬁ", "\u00a0", "\u3000", "٣٤٥", "½", "!?..", "/\n"]
    for _ in range(n):
        yield rng.choice([" ", "", "  "]).join(rng.choice(words) for _ in range(rng.randrange(1, 12)))
    for _ in range(n // 4):
        yield "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x700), rng.randrange(0x4E00, 0x4E80)])) for _ in range(30))


def byte_level(name, rng):
    steps, normalizer, ignore_merges = BYTE_LEVEL[name]
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = steps
    if normalizer:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(PAGE.split("\n"), trainer)
    made.add_tokens([AddedToken(ADDED, normalized=False)])
    content = json.loads(made.to_str())
    vocab = sorted(made.get_vocab().items(), key=lambda item: item[1])
    kinds = [3 if text in SPECIAL else 4 if text == ADDED else 1 for text, _ in vocab]
    marks = [f"{SPECIAL[0]}Hi{ADDED} there{SPECIAL[1]}\n", f"a {ADDED}b", f" {SPECIAL[1]} "]
    return {
        "model": "gpt2",
        "pre": name,
        "tokens": [text for text, _ in vocab],
        "types": kinds,
        "merges": [" ".join(pair) for pair in content["model"]["merges"]],
        "cases": [[text, made.encode(text).ids] for text in [*texts(rng, 40), *marks]],
    }


def pieces(prefix, rng):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page").write_text(PAGE)
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/page", model_prefix=f"{folder}/m", vocab_size=640, model_type="bpe", byte_fallback=True,
            character_coverage=0.99, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=prefix, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2,
        )
        made = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    def kind(i):
        return 2 if made.is_unknown(i) else 3 if made.is_control(i) else 6 if made.is_byte(i) else 1
    return {
        "model": "llama",
        "prefix": prefix,
        "tokens": [made.id_to_piece(i) for i in range(len(made))],
        "scores": [made.get_score(i) for i in range(len(made))],
        "types": [kind(i) for i in range(len(made))],
        "cases": [[text, made.encode(text)] for text in texts(rng, 60)],
    }


def main():
    rng = random.Random(11)
    cases = [byte_level(name, rng) for name in BYTE_LEVEL] + [pieces(prefix, rng) for prefix in (True, False)]
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(__file__).with_name("tokenizer.json").write_text(f"[\n{lines}\n]\n")


main()
