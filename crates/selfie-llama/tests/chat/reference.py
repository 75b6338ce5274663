"""Writes reference.json: what transformers makes of chats with the templates in this folder.

    pip install transformers==4.57.6 jinja2==3.1.6 && python reference.py

The templates are written in the styles of the families that they are named after; `features.jinja` has what those do not use.
"""

import datetime
import json
from pathlib import Path

import transformers
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
USER = {"role": "user", "content": "  What is <b>3 & 4</b>?\nÉ 🙂 \n"}
SYSTEM = {"role": "system", "content": "Be brief. "}
ANSWER = {"role": "assistant", "content": "\n It is 7.\n\n"}
AGAIN = {"role": "user", "content": "Are you sure?"}
SURE = {"role": "assistant", "content": "Sure, I will say:"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes"}
CHATS = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, AGAIN],
    [SYSTEM, USER, ANSWER, AGAIN],
    [USER, ANSWER],
    [USER, SURE],
    [SYSTEM, USER, THOUGHT, AGAIN, THOUGHT],
    [USER, USER],
    [{"role": "system", "content": "Short. /no_think"}, USER, SURE],
    [USER, {"role": "assistant", "content": ""}],
]
ENDS = {"closed": {}, "reply": {"add_generation_prompt": True}, "continue": {"continue_final_message": True}}


class Clock(datetime.datetime):
    """Dates are left as their formats, in braces: the test puts its own day there."""

    @classmethod
    def now(cls):
        return cls(2024, 1, 1)

    def strftime(self, format):
        return "{{" + format + "}}"


def render(template, chat, options):
    # A message that is there twice would be one object, and change twice.
    chat = [dict(message) for message in chat]
    try:
        texts, _ = render_jinja_template([chat], chat_template=template, **options, **SPECIAL)
        return {"text": texts[0]}
    except Exception as error:
        return {"error": str(error)}


def main():
    chat_template_utils.datetime = Clock
    cases = []
    for path in sorted(HERE.glob("*.jinja")):
        # As `from_pretrained` reads it.
        template = path.read_text(encoding="utf-8")
        for chat in CHATS:
            for end, options in ENDS.items():
                cases.append({"template": path.name, "messages": chat, "end": end, **render(template, chat, options)})
    written = {"transformers": transformers.__version__, "special_tokens": SPECIAL, "cases": cases}
    (HERE / "reference.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


main()
