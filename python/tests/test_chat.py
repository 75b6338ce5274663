"""Chats as prompts: the model's chat template formats them."""

import shutil

import pytest
import selfie_rs
from conftest import REPOSITORY
from selfie_rs.control import supervised

QUESTION = "What is the capital of the country of the Colosseum?"
CHAT = [{"role": "user", "content": QUESTION}]


def checkpoint(folder):
    """A copy of the demo's files."""
    return shutil.copytree(REPOSITORY / "crates/selfie-demo/checkpoint", folder, dirs_exist_ok=True)


def ids(model, prompt):
    return [token.id for token in model.tokens(prompt)]


def test_a_chat_is_the_prompt_that_its_template_writes(demo, colosseum):
    # The demo's template writes LLaMA 2's form, with bos, which the tokenizer adds to a text.
    assert demo.render(CHAT) == "<s>" + colosseum
    assert ids(demo, CHAT) == ids(demo, colosseum)
    assert demo.generate(CHAT, max_new_tokens=8).text == demo.generate(colosseum, max_new_tokens=8).text
    assert (demo.trace(CHAT).hidden_states == demo.trace(colosseum).hidden_states).all()


def test_one_chat_or_several(demo, colosseum):
    options = dict(layers=[3], tokens=[-3, -1], seed=3, controls=["random"])
    want = [row.interpretation for row in demo.interpret(colosseum, **options)]
    for prompts in [CHAT, tuple(CHAT), [CHAT], [CHAT, CHAT]]:
        rows = list(demo.interpret(prompts, **options))
        assert [row.interpretation for row in rows] == want * (len(rows) // len(want))
        assert {row.prompt for row in rows} == {"<s>" + colosseum}
    assert len(rows) == 2 * len(want)
    pairs = demo.interpret([CHAT, CHAT], cells=[(3, -1), (1, 3, -3)], seed=3, controls=["random"])
    assert [row.interpretation for row in pairs] == [want[1], want[1], want[0]]


def test_an_unfinished_answer_goes_on(demo):
    opened = CHAT + [{"role": "assistant", "content": "The capital"}]
    assert demo.render(opened).endswith("[/INST] The capital")
    assert demo.generate(opened, max_new_tokens=8).text.startswith("of Italy")


def test_transformers_formats_the_same_text(demo, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: not compared with it")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(tmp_path))
    turns = [
        *CHAT,
        {"role": "assistant", "content": "Rome."},
        {"role": "user", "content": " And of the Eiffel Tower? "},
    ]
    for chat in [CHAT, turns]:
        assert demo.render(chat) == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_control_takes_chats(demo, colosseum):
    def losses(prompt):
        options = dict(steps=2, reference=[prompt], probes=[prompt], write="last")
        outcome = supervised(demo, [(prompt, -3)], 2, [(prompt, 3, -1)], **options)
        return [step["loss"] for step in outcome.steps]

    assert losses(CHAT) == losses(colosseum)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, p: m.interpret([CHAT, p]), ValueError, "some are texts and some are chats"),
        (lambda m, p: supervised(m, [(CHAT, 1), (p, 1)], 2, [(CHAT, 3, 1)]), ValueError, "some are texts and some"),
        (lambda m, p: supervised(m, [(CHAT, 1)], 2, [(p, 3, 1)]), ValueError, "some are texts and some are chats"),
        (lambda m, p: supervised(m, [(p, 1)], 2, [(p, 3, 1)], probes=[CHAT]), ValueError, "some are texts and some"),
        (lambda m, p: m.render([]), ValueError, "no message"),
        (lambda m, p: m.render([{"role": "user"}]), ValueError, "content"),
        (lambda m, p: m.generate([{"role": "user", "content": 3}]), ValueError, "expected a string"),
        (lambda m, p: m.tokens(7), TypeError, "expected a text, or the messages"),
        (lambda m, p: m.trace([CHAT]), ValueError, "messages"),
    ],
)
def test_wrong_chats_are_errors(demo, colosseum, call, error, message):
    with pytest.raises(error, match=message):
        call(demo, colosseum)


def test_a_model_without_a_template_says_where_one_would_be(tmp_path):
    (checkpoint(tmp_path) / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat_template.jinja"):
        selfie_rs.Model.open(tmp_path, device="cpu").generate(CHAT)


def test_a_template_without_bos_is_a_warning(tmp_path):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (checkpoint(tmp_path) / "chat_template.jinja").write_text(template)
    model = selfie_rs.Model.open(tmp_path, device="cpu")
    with pytest.warns(UserWarning, match="writes no <s>"):
        list(model.interpret(CHAT, layers=[3], tokens=[-1], max_new_tokens=1))
