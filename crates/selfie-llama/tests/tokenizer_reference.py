"""Writes tokenizer_reference.json: what transformers makes of texts and ids with the golden tokenizers.

    pip install torch transformers==4.57.1 && python tokenizer_reference.py
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

import transformers
from transformers import AutoTokenizer

HERE = Path(__file__).parent
TEXTS = [
    "",
    " ",
    "The",
    "  two  spaces ",
    "Größe, 東京 🙂",
    "🙂🙂 é\n\tå",
    "human and alien are equal",
    "<s>bos</s> <|begin_of_text|>in<|eot_id|> text",
    "He said : ' I do n't know ' , did n't he ? It 's what they 've said ; we 're not . I 'm !",
    "a  . b '  c  ' s d n ' t e",
]


def tokenizer(folder, byte_tokens, config):
    """`byte_tokens` False: <0x00> .. <0xFF> are plain tokens of the vocabulary, as in LLaMA 2."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        copy.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copy(HERE / "golden" / folder / name, copy)
        path = copy / "tokenizer.json"
        content = json.loads(path.read_text())
        if not byte_tokens:
            content["added_tokens"] = [one for one in content["added_tokens"] if not one["content"].startswith("<0x")]
        path.write_text(json.dumps(content))
        path = copy / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return AutoTokenizer.from_pretrained(copy)


def case(folder, byte_tokens, config):
    made = tokenizer(folder, byte_tokens, config)
    chance = random.Random(5)
    texts, ids = [], []
    for text in TEXTS:
        plain = made.encode(text, add_special_tokens=False)
        texts.append({"text": text, "encode": made.encode(text), "encode_plain": plain})
        ids.append(made.encode(text))
    multibyte = made.encode("Größe, 東京 🙂", add_special_tokens=False)
    for length in range(1, 25):
        # Past the end of the vocabulary too: a model's can be padded.
        ids.append([chance.randrange(len(made) + 20) for _ in range(length)])
        cut = multibyte[chance.randrange(len(multibyte)) :]
        ids.append(ids[-1][: length // 4] + cut + ids[-1][length // 4 : length // 2] + multibyte[: len(cut)])
    decoded = [
        {"ids": one, "decode": made.decode(one, skip_special_tokens=True), "decode_all": made.decode(one)} for one in ids
    ]
    return {"folder": folder, "byte_tokens": byte_tokens, "config": config, "texts": texts, "decoded": decoded}


CLEAN = {"clean_up_tokenization_spaces": True}
cases = [
    case("llama2-mha", True, {}),
    case("llama2-mha", False, {}),
    case("llama2-mha", False, CLEAN),
    case("llama3-gqa", True, {}),
    case("llama3-gqa", True, CLEAN),
]
made_by = f"tokenizer_reference.py, transformers {transformers.__version__}"
body = ",\n".join(json.dumps(one) for one in cases)
(HERE / "tokenizer_reference.json").write_text(f'{{"made_by": "{made_by}",\n"cases": [\n{body}\n]}}\n')
