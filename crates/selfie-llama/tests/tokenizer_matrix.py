"""Writes tokenizer_matrix.jsonl: folders of tokenizers as people have them, and what AutoTokenizer makes of them.

    pip install transformers==4.57.1 sentencepiece protobuf && python tokenizer_matrix.py

Lines of the file, by their one key:
- `made_by`, and the `prompts` that every tokenizer is given;
- `base`: the files that folders are made of, as JSON, as text, or in base64 (`tokenizer.model`);
- `ids` and `texts`: what was found, each once;
- `case`: a folder. `base` and `files` say which files of the base it has; `edits` are fields that are set in one of its
  JSON files, which is made if it is not there. Then either `error`, or for each prompt the number of its ids, of their
  text, and of their text without special tokens; and `bos` and `eos`.
"""

import base64
import io
import itertools
import json
import logging
import os
import random
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import sentencepiece
import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaTokenizerFast

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
transformers.logging.set_verbosity_error()
HERE = Path(__file__).parent

CORPUS = """
The capital of France is Paris, and the message says: I will summarize the message, sure. What is the capital of the country?
Who are you? Hello there, hello world! It's what they've said; we're not. I'm here, he'd go, she'll come, don't.
The materials mentioned in the message are: wood, glass, steel, and paper. Largest city, river, mountain, language.
def main(argc, argv):\n    for i in range(10):\n        print(i, "x" * i)\n    return {"a": [1, 2, 3]}\n
Größe über alles Straße. L'été à la plage. Привет мир, как дела. 東京は日本の首都です。 你好，世界。 🙂🙂 👍🏽
user assistant system im_start im_end begin_of_text end_of_text start_header_id INST SYS bos eos pad unk
1234567890 3.14159 2024-01-31 10:15:00 100% $5.00 #1 a_b c-d e/f g\\h <tag> </tag> [INST] [/INST] {x} (y)
""".strip().split("\n")

PROMPTS = [
    "",
    " ",
    "Hello",
    "Who are you?",
    " leading space",
    "trailing space ",
    "  two  spaces   three",
    "line\nbreak\n\nand\r\nmore\t tab",
    "\n",
    "\n\nstarts with breaks",
    "Größe, 東京 🙂 für 你好",
    "e\u0301te\u0301 vs \u00e9t\u00e9 ﬁ",
    "👍🏽🙂\u200d🙂",
    "\u00a0non\u2003breaking\u3000space",
    "It's what they've said; we're DON'T I'LL",
    'def f(x):\n    return {"a": [1, 22, 333]}  # 1234567',
    "<s>Hello</s>",
    "<s> Hello </s> world<s>",
    "a<|im_start|>user b<|im_end|>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "x <|im_start|> y  <|new|>  z<|new|><|new|>",
    "word<new>word <new> new>",
    "<unk><pad> <|endoftext|>end",
    "[INST]_ _ _ _ _ [/INST] Sure, I will summarize the message:",
    "▁<PRE> x ▁<SUF>y ▁<MID>",
    "▁the▁capital ▁ of",
    "Ġthe Ċ <0x0A> <0xE4>",
    "the capital of France is",
    "\x00\x01 control \x7f",
    "ﷺ \U0001f600 ｆｕｌｌ ｗｉｄｔｈ",
]
assert len(PROMPTS) == 30


def token(content, **flags):
    base = {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    return base | flags


def typed(content, **flags):
    return {"__type": "AddedToken"} | token(content, **flags)


def listed(contents, tokenizer):
    """Added tokens as tokenizer.json lists them, whose ids its vocabulary has or follow it."""
    ids = dict(tokenizer["model"]["vocab"])
    for content in contents:
        ids.setdefault(content, len(ids))
    return [{"id": ids[content]} | token(content) for content in contents]


def sentencepiece_bases():
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=written,
        vocab_size=560,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.985,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<|im_start|>"],
        num_threads=1,
        minloglevel=2,
    )
    model = written.getvalue()
    unigram = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=unigram,
        vocab_size=420,
        model_type="unigram",
        byte_fallback=True,
        character_coverage=0.985,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    bases = {}
    for name, model, legacy in [("sp", model, True), ("sp-new", model, False), ("unigram", unigram.getvalue(), True)]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.model"
            path.write_bytes(model)
            made = LlamaTokenizerFast(vocab_file=str(path), legacy=legacy)
            content = json.loads(made.backend_tokenizer.to_str())
        bases[name] = {"tokenizer.json": content, "tokenizer.model": base64.b64encode(model).decode()}
    return bases


SPLIT = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def byte_level_base(name):
    made = Tokenizer(models.BPE())
    if name == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(SPLIT[name]), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if name == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    content = json.loads(made.to_str())
    content["model"]["merges"] = [list(pair) for pair in content["model"]["merges"]]
    specials = {
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "gpt2": ["<|endoftext|>"],
    }[name]
    vocab = dict(content["model"]["vocab"])
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in content["model"]["merges"])
    if name == "gpt2":  # Here the token is in the vocabulary itself, as GPT-2 has it.
        vocab["<|endoftext|>"] = content["model"]["vocab"]["<|endoftext|>"] = len(vocab)
    content["added_tokens"] = listed(specials, content)
    if name == "llama3":
        bos = content["added_tokens"][0]
        template = {"id": bos["content"], "ids": [bos["id"]], "tokens": [bos["content"]]}
        begin = {"SpecialToken": {"id": bos["content"], "type_id": 0}}
        single = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos["content"]: template},
        }
    return {"tokenizer.json": content, "vocab.json": json.dumps(vocab, ensure_ascii=False), "merges.txt": merges}


BASES = sentencepiece_bases() | {name: byte_level_base(name) for name in ("llama3", "qwen2", "gpt2")}
USUAL = {
    "sp": "LlamaTokenizer",
    "sp-new": "LlamaTokenizer",
    "unigram": "LlamaTokenizer",
    "llama3": "PreTrainedTokenizerFast",
    "qwen2": "Qwen2Tokenizer",
    "gpt2": "GPT2Tokenizer",
}
BOS = {"llama3": "<|begin_of_text|>", "qwen2": "<|endoftext|>", "gpt2": "<|endoftext|>"}
CLASSES = [
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "PreTrainedTokenizer",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTNeoXTokenizer",
    "GPTNeoXTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
]
MODEL_TYPES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "olmo3", "smollm3"]
CONFIG, MAP, ADDED, JSON = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"


def template(base, *contents):
    """A post-processor that puts tokens before the text, and one after it."""
    ids = BASES[base]["tokenizer.json"]["model"]["vocab"]
    if isinstance(ids, list):
        ids = {content: number for number, (content, _) in enumerate(ids)}
    first, last = contents

    def piece(content):
        return {"SpecialToken": {"id": content, "type_id": 0}}

    single = [piece(first), {"Sequence": {"id": "A", "type_id": 0}}, piece(last)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {c: {"id": c, "ids": [ids[c]], "tokens": [c]} for c in contents},
    }


def processors_of(base):
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pair = ("<s>", "</s>") if base in ("sp", "sp-new", "unigram") else ("a", "b")
    made = template(base, *pair)
    return [None, bytes_, made, {"type": "Sequence", "processors": [bytes_, made]}]


def special_edits(base):
    """Ways to name special tokens, by file."""
    bos = BOS.get(base, "<s>")
    new = "<|new|>"
    wide = typed(new, lstrip=True, rstrip=True)
    return [
        {},
        {CONFIG: {"bos_token": bos, "eos_token": "</s>", "unk_token": "<unk>"}},
        {
            CONFIG: {
                "bos_token": typed(bos),
                "eos_token": typed("<|im_end|>"),
                "pad_token": typed("<pad>", normalized=True),
            }
        },
        {CONFIG: {"bos_token": bos, "pad_token": new}},
        {CONFIG: {"bos_token": bos, "eos_token": "<|im_start|>"}},
        {CONFIG: {"bos_token": bos, "pad_token": wide}},
        {CONFIG: {"bos_token": bos, "unk_token": None, "pad_token": None, "eos_token": None}},
        {CONFIG: {"bos_token": None}},
        {CONFIG: {"bos_token": token(bos)}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": ["<|im_start|>", "<|im_end|>", new]}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": [wide, "<|im_end|>"]}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": [token(new)]}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": "<|new|>"}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": []}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": None}},
        {
            CONFIG: {
                "bos_token": bos,
                "extra_special_tokens": {"image_token": new, "other": typed("<new>", rstrip=True)},
            }
        },
        {CONFIG: {"bos_token": bos, "extra_special_tokens": [new]}},
        {
            CONFIG: {
                "bos_token": bos,
                "added_tokens_decoder": {"570": token(new), "571": token("<new>", special=False, normalized=True)},
            }
        },
        {
            CONFIG: {
                "bos_token": bos,
                "added_tokens_decoder": {"0": token("<unk>"), "1": token(bos), "9": token(new, lstrip=True)},
            }
        },
        {
            CONFIG: {
                "bos_token": bos,
                "pad_token": "<pad>",
                "added_tokens_decoder": {"8": token("<pad>", normalized=True, rstrip=True)},
            }
        },
        {
            CONFIG: {
                "bos_token": bos,
                "added_tokens_decoder": {"600": token("the", special=False, single_word=True), "601": token("▁<PRE>")},
            }
        },
        {
            CONFIG: {
                "bos_token": typed(bos, normalized=True),
                "eos_token": typed("<|im_start|>", lstrip=True, normalized=True),
            }
        },
        {
            CONFIG: {
                "bos_token": bos,
                "added_tokens_decoder": {
                    "1": token(bos, normalized=True, rstrip=True),
                    "3": token("<|im_start|>", normalized=True, lstrip=True),
                },
            }
        },
        {
            CONFIG: {
                "bos_token": bos,
                "pad_token": typed(new, lstrip=True),
                "additional_special_tokens": [typed("<new>", normalized=True)],
                "added_tokens_decoder": {
                    "570": token(new, normalized=True, special=False),
                    "571": token("<new>", special=False),
                },
            }
        },
        {CONFIG: {"bos_token": bos, "added_tokens_decoder": {"x": token(new)}}},
        {CONFIG: {"bos_token": bos, "added_tokens_decoder": {"700": new}}},
        {CONFIG: {"bos_token": bos, "added_tokens_decoder": None}},
        {CONFIG: {"bos_token": bos, "added_tokens_decoder": {}}, MAP: {"pad_token": new}},
        {MAP: {"bos_token": bos, "eos_token": new}},
        {MAP: {"bos_token": token(bos, normalized=True), "eos_token": token(new, lstrip=True), "unk_token": "<unk>"}},
        {MAP: {"additional_special_tokens": ["<|im_start|>", new], "bos_token": bos}},
        {
            MAP: {"additional_special_tokens": [token(new, rstrip=True)], "bos_token": bos},
            CONFIG: {"additional_special_tokens": ["<|im_end|>", new]},
        },
        {
            MAP: {"additional_special_tokens": ["<pad>"], "pad_token": "<pad>", "bos_token": bos},
            ADDED: {new: 590, "<new>": 591},
        },
        {MAP: {"bos_token": bos, "pad_token": new}, CONFIG: {"pad_token": token("<x>")}},
        {ADDED: {new: 600, "<|im_end|>": 601, "<new>": 3}, CONFIG: {"bos_token": bos}},
        {ADDED: {new: 600}, CONFIG: {"bos_token": bos, "pad_token": new}},
        {ADDED: {new: 600}, CONFIG: {"bos_token": bos, "pad_token": typed(new)}},
        {ADDED: {new: "600"}, CONFIG: {"bos_token": bos}},
        {JSON: {"added_tokens": [{"id": 5} | token(new, normalized=True, special=False)]}, CONFIG: {"bos_token": bos}},
        {
            JSON: {
                "added_tokens": [
                    {"id": 1} | token("<s>", special=False, normalized=True),
                    {"id": 2} | token("</s>", normalized=True),
                    {"id": 3} | token("<|im_start|>", special=False, single_word=True),
                ]
            },
            CONFIG: {
                "bos_token": typed(bos),
                "eos_token": typed("</s>"),
                "added_tokens_decoder": {"3": token("<|im_start|>", normalized=True)},
            },
        },
        {
            JSON: {
                "padding": {
                    "strategy": "BatchLongest",
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "<pad>",
                }
            },
            CONFIG: {"bos_token": bos},
        },
        # Less usual still.
        {CONFIG: {"sep_token": "<sep>", "cls_token": typed("<cls>", single_word=True), "mask_token": "<mask>"}},
        {MAP: {"cls_token": token("<cls>", lstrip=True), "mask_token": None, "sep_token": "the"}},
        {CONFIG: {"bos_token": "a b"}},
        {CONFIG: {"bos_token": "a:b"}},
        {CONFIG: {"eos_token": "$A"}},
        {CONFIG: {"unk_token": "<new>", "pad_token": "the"}},
        {CONFIG: {"bos_token": bos, "additional_special_tokens": [bos, "the", "▁of", typed("▁capital"), "▁capital"]}},
        {CONFIG: {"bos_token": typed(bos, lstrip=True, rstrip=True, single_word=True)}},
        {CONFIG: {"added_tokens_decoder": {"0": token("<unk>", special=False), "2": token("</s>", rstrip=True)}}},
        {
            CONFIG: {
                "added_tokens_decoder": {"900": {"content": "<new>"}, "902": {"content": "Hello", "single_word": True}}
            }
        },
        {CONFIG: {"bos_token": bos, "extra_special_tokens": None}},
        {CONFIG: {"extra_special_tokens": {"bos_token": "<new>"}}},
        {CONFIG: {"bos_token": 5}},
        {CONFIG: {"eos_token": typed(new, normalized=True, lstrip=True)}},
        {ADDED: {"<new>": 590, "world": 591, "<s>": 1}},
        {MAP: {"additional_special_tokens": []}},
        {MAP: {"additional_special_tokens": [5]}},
        {MAP: {"bos_token": {"content": "<new>", "special": False}}},
        {MAP: {"pad_token": "world", "unheard_of": "x"}, ADDED: {"world": 3}},
        {CONFIG: {"bos_token": bos, "prefix_token": None, "suffix_token": "<new>", "fill_token": None}},
        {CONFIG: {"bos_token": bos, "add_special_tokens": True}},
        {CONFIG: {"bos_token": bos, "from_slow": True, "add_prefix_space": False, "legacy": False}},
    ]


FLAGS = {
    "add_bos_token": [True, False, None, "yes", 0],
    "add_eos_token": [True, False, None],
    "add_prefix_space": [True, False, None, "yes"],
    "split_special_tokens": [True, False, None],
    "legacy": [True, False, None],
    "from_slow": [True, False],
    "clean_up_tokenization_spaces": [True, False],
    "tokenizer_file": [None],
    "model_max_length": [4, 1e30],
}


def merged(*edits):
    made = {}
    for edit in edits:
        for name, fields in edit.items():
            made[name] = made.get(name, {}) | fields
    return made


def is_gemma(name):
    """Not made of tokenizer.model here: tests/tokenizer.rs has what is said then."""
    return "gemma" in (name or "").lower()


def cases():
    """(base, its files, edits): first one thing at a time, then many by chance."""
    only_json = ["tokenizer.json"]
    for base in BASES:
        every = list(BASES[base])
        usual = {CONFIG: {"tokenizer_class": USUAL[base], "bos_token": BOS.get(base, "<s>")}}
        for files in [only_json, every, every[1:]]:
            yield base, files, usual
        for name in CLASSES + ["NoSuchTokenizer", None]:
            for files in [only_json, every[1:]]:
                if files == only_json or not is_gemma(name):
                    yield base, files, {CONFIG: {"tokenizer_class": name, "bos_token": BOS.get(base, "<s>")}}
        for post_processor in processors_of(base):
            for name in ["LlamaTokenizerFast", "PreTrainedTokenizerFast", "Qwen2Tokenizer"]:
                edit = {JSON: {"post_processor": post_processor}, CONFIG: {"tokenizer_class": name}}
                yield base, only_json, merged(usual, edit)
        for special in special_edits(base):
            yield base, only_json, merged(special, {CONFIG: {"tokenizer_class": USUAL[base]}})
            yield base, every[1:], merged(special, {CONFIG: {"tokenizer_class": USUAL[base]}})
        for flag, values in FLAGS.items():
            for value, files in itertools.product(values, [only_json, every, every[1:]]):
                yield base, files, merged(usual, {CONFIG: {flag: value}})
        for model_type in MODEL_TYPES:
            yield base, only_json, {"config.json": {"model_type": model_type}}
    for base in ("sp", "gpt2"):
        yield base, only_json, {"config.json": {"model_type": "llama", "tokenizer_class": "GPT2Tokenizer"}}
        yield (
            base,
            only_json,
            {"config.json": {"tokenizer_class": "LlamaTokenizer", "model_type": "qwen2"}, CONFIG: {"bos_token": "<s>"}},
        )
        yield base, only_json, {CONFIG: {"bos_token": "<s>"}}

    chance = random.Random(16)
    for _ in range(1000):
        base = chance.choice(list(BASES))
        every = list(BASES[base])
        files = chance.choice([only_json, only_json, only_json, every, every, every[1:]])
        edit = merged(chance.choice(special_edits(base)), chance.choice(special_edits(base)))
        name = chance.choice([USUAL[base], chance.choice(CLASSES), None])
        if name:
            edit = merged(edit, {CONFIG: {"tokenizer_class": name}})
        else:
            edit = merged(edit, {"config.json": {"model_type": chance.choice(MODEL_TYPES)}})
        flags = chance.sample(list(FLAGS), chance.choice([0, 1, 2, 3]))
        edit = merged(edit, {CONFIG: {flag: chance.choice(FLAGS[flag]) for flag in flags}})
        if chance.random() < 0.4:
            edit = merged(edit, {JSON: {"post_processor": chance.choice(processors_of(base))}})
        if JSON in edit and "tokenizer.json" not in files:
            continue
        if is_gemma(name or edit["config.json"]["model_type"]) and "tokenizer.model" in files:
            continue
        yield base, files, edit


def write(folder, base, files, edits):
    for name in files:
        content = BASES[base][name]
        path = folder / name
        if name == "tokenizer.model":
            path.write_bytes(base64.b64decode(content))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
    for name, fields in edits.items():
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | fields, ensure_ascii=False))


def numbers(known, value):
    return known.setdefault(json.dumps(value, ensure_ascii=False), len(known))


def main():
    ids, texts, lines, seen = {}, {}, [], set()
    # Without a model_type, transformers looks for one in the folder's name: it has to be the same at each run.
    folder = Path(tempfile.gettempdir()) / "selfie"
    for base, files, edits in cases():
        case = {"case": len(lines), "base": base, "files": files, "edits": edits}
        key = json.dumps([base, files, edits], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        folder.mkdir()
        try:
            write(folder, base, files, edits)
            try:
                made = AutoTokenizer.from_pretrained(folder)
                found = [made(prompt).input_ids for prompt in PROMPTS]
                case["ids"] = [numbers(ids, one) for one in found]
                case["texts"] = [numbers(texts, made.decode(one)) for one in found]
                case["plain"] = [numbers(texts, made.decode(one, skip_special_tokens=True)) for one in found]
                case["bos"], case["eos"] = made.bos_token_id, made.eos_token_id
            except Exception as error:
                case["error"] = f"{type(error).__name__}: {error}".replace(str(folder), "DIR").split("\n")[0][:100]
        finally:
            shutil.rmtree(folder)
        lines.append(case)
    versions = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}"
    with open(HERE / "tokenizer_matrix.jsonl", "w") as file:

        def put(value):
            file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")

        put({"made_by": f"tokenizer_matrix.py, {versions}", "prompts": PROMPTS})
        for name, content in BASES.items():
            put({"base": name, "content": content})
        put({"ids": [json.loads(one) for one in ids]})
        put({"texts": [json.loads(one) for one in texts]})
        for case in lines:
            put(case)
    failed = sum("error" in case for case in lines)
    print(f"{len(lines)} folders, of which {failed} are refused")


main()
