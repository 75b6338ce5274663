"""The functions of SelfIE's Python package (github.com/tonychenxyz/selfie, `selfie/interpret.py`) for a `Model`.

Only two lines of the package's README change: the import, and the one that opens the model.

    from selfie_rs.interpret import InterpretationPrompt, interpret
    model = selfie_rs.Model.open(model_path)
"""

from selfie_rs._selfie import Model


class InterpretationPrompt:
    """A prompt with placeholders: a tuple of texts, with anything else (usually 0) for each placeholder.

    `tokenizer` is a transformers tokenizer, which only `insert_locations` needs; otherwise it may be None, since the
    model has its own. `parts` is the sequence with a 0 for each placeholder. `interpretation_prompt` is its text, with
    `"_ "` for each placeholder.
    """

    def __init__(self, tokenizer, interpretation_prompt_sequence):
        self.tokenizer = tokenizer
        self.parts = [part if isinstance(part, str) else 0 for part in interpretation_prompt_sequence]
        self.interpretation_prompt = "".join("_ " if part == 0 else part for part in self.parts)

    @property
    def insert_locations(self):
        """The positions to overwrite, in the tokens of `tokenizer`."""
        text, locations = "", []
        for part in self.parts:
            if part == 0:
                start = len(self.tokenizer.encode(text))
                text += "_ "
                locations.extend(range(start, len(self.tokenizer.encode(text))))
            else:
                text += part
        return locations


def interpret(
    original_prompt=None,
    tokenizer=None,
    interpretation_prompt=None,
    model=None,
    tokens_to_interpret=None,
    bs=8,
    max_new_tokens=30,
    k=1,
):
    """Interprets `(layer, token)` pairs of a prompt. The embedding is injected at the input of layer `k`.

    Returns a dict of lists with one entry per pair, in order: prompt, interpretation, layer, token, token_decoded,
    relevancy_score (one float per generated token, up to and including the one that ended the text).

    `bs` is the number of texts to decode together; rows do not depend on it. `tokenizer` may be None. A transformers
    tokenizer is compared with the model's own, and a ValueError says where they differ.
    """
    _check_model(model)
    _check_tokenizer(tokenizer, model, original_prompt)
    columns = ("prompt", "interpretation", "layer", "token", "token_decoded", "relevancy_score")
    result = {column: [] for column in columns}
    rows = model.interpret(
        original_prompt,
        cells=[tuple(pair) for pair in tokens_to_interpret],
        interpretation_prompt=interpretation_prompt,
        inject_layer=k,
        max_new_tokens=max_new_tokens,
        batch_size=bs,
    )
    for row in rows:
        for column in columns:
            result[column].append(getattr(row, column))
    return result


def interpret_vectors(
    vecs=None, model=None, interpretation_prompt=None, tokenizer=None, bs=8, k=1, max_new_tokens=30
):
    """Interprets vectors as wide as the residual stream. Returns a list of interpretations.

    The original package always injects at layer 1, whatever its `k` (2 by default) says. Here `k` defaults to 1 and is
    respected.
    """
    _check_model(model)
    rows = model.interpret_vectors(
        vecs,
        interpretation_prompt=interpretation_prompt,
        inject_layer=k,
        max_new_tokens=max_new_tokens,
        batch_size=bs,
        relevancy=False,
    )
    return [row.interpretation for row in rows]


def _check_model(model):
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; open it from its files with selfie_rs.Model.open(path)"
        )


def _check_tokenizer(tokenizer, model, prompt):
    if tokenizer is None or not hasattr(tokenizer, "encode"):
        return
    theirs, ours = list(tokenizer.encode(prompt)), [token.id for token in model.tokens(prompt)]
    if theirs != ours:
        raise ValueError(
            f"the tokenizer reads {prompt!r} as {theirs}, but the model's own reads {ours}: the pairs would name other "
            "tokens; leave tokenizer out, or give the checkpoint's own"
        )

