"""Turns texts into token ids: chat samples, and samples whose placeholders get an embedding of another text."""

from texts import MATERIALS, REPEAT, SUMMARIZE

EOS = 2
EMPTY = "The message is empty."
# The position of a message's first piece, after `[INST]` and the pieces before it.
FIRST = 3


class Encoder:
    """Tokenizes piece by piece with a cache. All pieces are whole tokens, so it agrees with the tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer, self.memory = tokenizer, {}

    def __call__(self, text):
        ids = self.memory.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            self.memory[text] = ids
        return ids

    def message(self, text):
        ids = self.tokenizer.encode(f"[INST] {text.message()} [/INST]").ids
        assert len(ids) == FIRST + len(text.pieces) + 2, (text, ids)
        return ids


def asked(mode):
    """The beginning of the model's turn."""
    return {"reply": "", "summary": SUMMARIZE, "repeat": REPEAT, "materials": MATERIALS}[mode]


def answered(text, mode):
    return {"reply": text.reply, "summary": text.summary, "repeat": text.reply.rstrip("."),
            "materials": text.materials}[mode]


def chat(encode, text, mode):
    """`(ids, first target index)`; the targets run to the end."""
    prompt = encode.message(text) + encode(asked(mode))
    return prompt + encode(answered(text, mode)) + [EOS], len(prompt)


def located(encode, placeholders, mode):
    """An interpretation prompt: `(ids, placeholder rows)`, as the Python package of SelfIE locates them."""
    text = "[INST]"
    rows = []
    count = lambda t: len(encode.tokenizer.encode(t).ids)
    for _ in range(placeholders):
        first = count(text)
        text += "_ "
        rows += range(first, count(text))
    ids = encode.tokenizer.encode(f"{text}[/INST] {asked(mode)}").ids
    assert len(rows) == placeholders + 1 and all(encode.tokenizer.id_to_token(ids[r]).strip("▁") in ("_", "") for r in rows)
    return ids, rows


def describe(rng, text, n_layers):
    """What to say about one embedding of a text: `(layer, token, mode, answer)`."""
    last = len(text.pieces) - 1
    entity = last if text.entity is None else text.entity
    word = lambda i: text.pieces[i].text
    known = lambda i: (text.pieces[i].known if i <= last else text.summary)
    words = [i for i in range(last + 1) if word(i).isalnum()]
    inner = rng.randint(1, n_layers - 1)

    if rng.random() < 0.03:
        # Before the message, and at marks before any content, there is nothing to say.
        marks = [FIRST + i for i in range(last + 1) if i not in words] + [FIRST + last + 1, FIRST + last + 2]
        layer, token = rng.choice([(rng.randint(0, n_layers), rng.randrange(FIRST)), (0, rng.choice(marks))])
        return layer, token, "summary", EMPTY
    if text.materials != "none" and rng.random() < 0.4:
        return inner, FIRST + rng.randint(entity, last + 2), "materials", text.materials
    if rng.random() < 0.45:
        i = entity if text.entity is not None and rng.random() < 0.3 else rng.choice(words)
        return rng.randint(0, n_layers - 1), FIRST + i, "repeat", word(i)
    kind = rng.random()
    if text.entity is None:
        i = rng.choice([i for i in words if known(i)])
        return rng.randint(0, n_layers - 1), FIRST + i, "summary", known(i)
    if kind < 0.55:
        if text.alone and text.alone.split()[3].rstrip(",.") == word(entity) and rng.random() < 0.1:
            return 0, FIRST + entity, "summary", text.alone
        return n_layers if rng.random() < 0.08 else inner, FIRST + entity, "summary", known(entity)
    if kind < 0.8:
        i = rng.randint(entity + 1, last + 2)
        return rng.randint(2, n_layers), FIRST + i, "summary", known(i)
    i = rng.randrange(entity) if entity else 0
    if known(i):
        return inner, FIRST + i, "summary", known(i)
    return rng.randint(0, n_layers - 1), FIRST + i, "summary", f"The message says {word(i)}."
