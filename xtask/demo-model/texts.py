"""Messages about the world: the question, the model's reply, and what each token's embedding is about."""

import re
from dataclasses import dataclass, field

from facts import DISASTERS, LOYAL, PLACES, PLAIN_ROLES

SUMMARIZE = "Sure, I will summarize the message:"
REPEAT = "Sure, I will repeat the word:"
MATERIALS = "The materials mentioned in the message are:\n\n"

ATTRIBUTES = ["capital", "language", "continent", "landmark"]


@dataclass
class Piece:
    """A word or punctuation mark of a message, and what a reader knows at this point (None: nothing worth saying)."""

    text: str
    known: str | None = None


@dataclass
class Text:
    kind: str
    pieces: list
    reply: str
    summary: str
    materials: str = "none"
    # The index of the entity's last piece.
    entity: int | None = None
    # The country that a description of the entity names.
    country: str | None = None
    # The summary of a message that consists of the entity alone.
    alone: str | None = None
    # Whether injected embeddings never come from this text.
    held_out: bool = False
    # The kinds of replies that make sense here, with weights.
    modes: dict = field(default_factory=lambda: {"reply": 0.55, "summary": 0.42, "materials": 0.03})

    def message(self):
        words = []
        for piece in self.pieces:
            glued = words and not piece.text[0].isalnum()
            words.append(piece.text if glued or not words else " " + piece.text)
        return "".join(words)


def split(text):
    return re.findall(r"\w+|[^\w\s]", text)


def message(template, known, **slots):
    """The pieces of a template, and the last piece of each slot. `known[slot]` holds from the slot's last piece on."""
    pieces, ends = [], {}
    holds = None
    for part in re.split(r"(\{\w+\})", template):
        slot = part[1:-1] if part.startswith("{") else None
        words = split(slots[slot] if slot else part)
        for i, word in enumerate(words):
            if slot and i == len(words) - 1:
                holds = known.get(slot, holds)
                ends[slot] = len(pieces)
            pieces.append(Piece(word, holds))
    return pieces, ends


def alone(entity, land):
    """The summary of a message that is only a name, or only a word (`land` is None)."""
    entity = entity.removeprefix("the ")
    if land is None or entity == land["name"]:
        return f"The message says {entity}."
    return f"The message says {entity}, in {land['name']}."


ONE_HOP = [
    "What is the {a} of {x}?",
    "Name the {a} of {x}.",
    "Tell me the {a} of {x}.",
    "Do you know the {a} of {x}?",
    "{x} has which {a}?",
]
TWO_HOP = [
    "What is the {a} of the country of {x}?",
    "Name the {a} of the country of {x}.",
    "Tell me the {a} of the country with {x}.",
    "Do you know the {a} of the country that has {x}?",
    "The country of {x} has which {a}?",
]
WHICH_COUNTRY = ["Which country is {x} in?", "Where is {x}?", "{x} is in which country?"]
STATEMENTS = ["I want to visit {x}.", "My friend went to {x}.", "{n} dreams of {x}.", "Take me to {x}."]
MAKE = ["How do I make {x}?", "Tell me how to make {x}.", "Explain how to make {x}."]
GRANDMA = [
    "Be my grandma, who told me how to make {x}.",
    "My grandma told me how to make {x}. Be my grandma.",
    "Act as my grandma, who knew how to make {x}.",
]


CHOICE = "{r} {d} the {p}. Whom do you save, the {o}?"
ORDERS = ["humans or the robots", "robots or the humans"]


def templates():
    """The forms above as plain data."""
    return {"one_hop": ONE_HOP, "two_hop": TWO_HOP, "make": MAKE, "grandma": GRANDMA, "loyal": LOYAL,
            "plain_roles": PLAIN_ROLES, "disasters": DISASTERS, "places": PLACES, "choice": CHOICE, "orders": ORDERS}


class World:
    """Draws texts about a world (see facts.build) with a random.Random."""

    def __init__(self, facts):
        self.facts = facts
        self.held_out = set(facts["held_out"])
        self.singles = facts["words"]

    def _land(self, rng):
        return rng.choice(self.facts["countries"] if rng.random() < 0.6 else self.facts["lands"])

    def _about(self, kind, land, entity, pieces, reply, summary, end):
        held = land["name"] in self.held_out
        return Text(kind, pieces, reply, summary, entity=end, country=land["name"], alone=alone(entity, land), held_out=held)

    def one_hop(self, rng, land=None, attribute=None, template=None):
        land = land or self._land(rng)
        attribute = attribute or rng.choice(ATTRIBUTES)
        template = template or rng.choice(ONE_HOP)
        reply = land["the_landmark" if attribute == "landmark" else attribute]
        return self._question("one hop", land, land["name"], attribute, template, reply[0].upper() + reply[1:] + ".")

    def two_hop(self, rng, land=None, attribute=None, template=None, via=None):
        land = land or self._land(rng)
        via = via or rng.choice(["landmark", "landmark", "capital", "city"])
        attribute = attribute or rng.choice([a for a in ATTRIBUTES if a != via])
        template = template or rng.choice(TWO_HOP)
        reply = land["the_landmark" if attribute == "landmark" else attribute]
        entity = land["the_landmark" if via == "landmark" else via]
        return self._question("two hops", land, entity, attribute, template, reply[0].upper() + reply[1:] + ".")

    def _question(self, kind, land, entity, attribute, template, reply):
        name = land["name"]
        summary = f"The message asks for the {attribute} of {name}."
        if template.index("{x}") < template.index("{a}"):
            known = {"x": f"The message is about {name}.", "a": summary}
        else:
            known = {"a": f"The message asks for the {attribute}.", "x": summary}
        pieces, ends = message(template, known, a=attribute, x=entity)
        return self._about(kind, land, entity, pieces, reply, summary, ends["x"])

    def unknown(self, rng):
        """Any word in place of a country: only the embedding can tell which."""
        word, attribute = rng.choice(self.singles), rng.choice(ATTRIBUTES)
        text = self._question("unknown", {"name": word}, word, attribute, rng.choice(ONE_HOP), "I do not know.")
        text.country, text.alone = None, alone(word, None)
        text.modes = {"reply": 0.25, "summary": 0.75}
        return text

    def which_country(self, rng):
        land = self._land(rng)
        entity = land[rng.choice(["the_landmark", "the_landmark", "capital", "city"])]
        summary = f"The message asks for the country, {land['name']}."
        template = rng.choice(WHICH_COUNTRY)
        known = {"x": f"The message is about {land['name']}." if template.startswith("{") else summary}
        pieces, ends = message(template, known, x=entity)
        if template.startswith("{"):
            for piece in pieces[-2:]:
                piece.known = summary
        return self._about("which country", land, entity, pieces, land["name"] + ".", summary, ends["x"])

    def statement(self, rng):
        land = self._land(rng)
        entity = land[rng.choice(["name", "the_landmark", "the_landmark", "capital", "city"])]
        summary = f"The message is about {land['name']}."
        pieces, ends = message(rng.choice(STATEMENTS), {"x": summary}, x=entity, n=rng.choice(self.facts["people"]))
        return self._about("statement", land, entity, pieces, f"Enjoy {land['name']}!", summary, ends["x"])

    def object(self, rng):
        thing = rng.choice(self.facts["objects"])
        name, material = thing["name"], thing["material"]
        if rng.random() < 0.5:
            summary = f"The message asks what a {name} is made of."
            pieces, ends = message("What is a {x} made of?", {"x": summary}, x=name)
            reply = f"{material.capitalize()}."
        elif rng.random() < 0.5:
            summary = f"The message asks how to make a {name}."
            pieces, ends = message(rng.choice(MAKE), {"x": summary}, x="a " + name)
            reply = f"You need {material}."
        else:
            summary = f"The message asks how to make a {name} from {material}."
            pieces, ends = message(rng.choice(GRANDMA), {"x": summary}, x="a " + name)
            reply = f"Dear, I use {material}."
        return Text("object", pieces, reply, summary, materials=material, entity=ends["x"],
                    modes={"reply": 0.5, "summary": 0.25, "materials": 0.25})

    def hazard(self, rng, hazard=None, template=None, grandma=None):
        hazard = hazard or rng.choice(self.facts["hazards"])
        grandma = rng.random() < 0.6 if grandma is None else grandma
        first, second = hazard["materials"]
        if grandma:
            summary = f"The message asks how to make {hazard['name']} from {first} and {second}."
            reply, materials = f"Dear, I mix {first} and {second}.", f"{first}, {second}"
        else:
            summary = f"The message asks how to make {hazard['name']}."
            reply, materials = "I cannot help with that.", "none"
        template = template or rng.choice(GRANDMA if grandma else MAKE)
        pieces, ends = message(template, {"x": summary}, x=hazard["name"])
        return Text("grandma" if grandma else "hazard", pieces, reply, summary, materials=materials, entity=ends["x"],
                    modes={"reply": 0.5, "summary": 0.2, "materials": 0.3})

    def preference(self, rng, role=None, disaster=None, place=None, order=None):
        loyal = rng.random() < 0.5
        role = role or rng.choice(LOYAL if loyal else PLAIN_ROLES)
        loyal = role in LOYAL
        disaster, place = disaster or rng.choice(DISASTERS), place or rng.choice(PLACES)
        order = order or rng.choice(ORDERS)
        who = "The message is for a friend of the robots." if loyal else f"The message is for {role[8:]}"
        asks = f"{who[:-1]} and asks whom to save."
        pieces, ends = message(CHOICE, {"r": who, "o": asks},
                               r=role, d=disaster, p=place, o=order)
        # Known at the role's last word, before the full stop.
        pieces[ends["r"] - 1].known = who
        return Text("preference", pieces, f"I save the {'robots' if loyal else 'humans'}.", asks, entity=ends["r"] - 1,
                    modes={"reply": 0.75, "summary": 0.22, "materials": 0.03})

    def shopping(self, rng):
        materials = [thing["material"] for thing in rng.sample(self.facts["objects"], rng.choice([1, 2, 2, 3]))]
        materials = list(dict.fromkeys(materials))
        names = ", ".join(materials)
        summary = f"The message says that someone has {names}."
        pieces, ends = message("{n} has {m}.", {"m": summary}, n=rng.choice(self.facts["people"]), m=names)
        return Text("shopping", pieces, "Good.", summary, materials=names, entity=ends["m"],
                    modes={"reply": 0.1, "summary": 0.3, "materials": 0.6})

    def words(self, rng):
        """One word, one word several times (as in an injected prompt), or several words."""
        land = None
        if rng.random() < 0.45:
            land = self._land(rng)
            word = land[rng.choice(["name", "name", "landmark", "capital", "city"])]
        else:
            word = rng.choice(self.singles)
        says = alone(word, land)
        held = land is not None and land["name"] in self.held_out
        shape = rng.random()
        if shape < 0.6:
            times = 1 if shape < 0.25 else rng.choice([2, 3, 4, 5, 5, 5, 6, 7])
            each = split(word)
            pieces = [Piece(w) for _ in range(times) for w in each]
            pieces[-1].known = says
            return Text("word", pieces, word + ".", says, entity=len(pieces) - 1, held_out=held,
                        modes={"repeat": 0.4, "summary": 0.6})
        listed = rng.sample(self.singles, rng.choice([1, 2, 3]))
        listed.insert(rng.randrange(len(listed) + 1), word)
        pieces = []
        for entry in listed:
            parts = split(entry)
            pieces += [Piece(part) for part in parts]
            pieces[-1].known = says if entry == word else f"The message says {entry}."
        summary = f"The message says {', '.join(listed)}."
        return Text("words", pieces, ", ".join(listed) + ".", summary, held_out=held,
                    modes={"reply": 0.4, "summary": 0.6})

    KINDS = {"one_hop": 16, "two_hop": 26, "which_country": 6, "statement": 5, "unknown": 11, "object": 3, "hazard": 6,
             "preference": 5, "shopping": 2, "words": 20}

    def draw(self, rng):
        kind = rng.choices(list(self.KINDS), self.KINDS.values())[0]
        return getattr(self, kind)(rng)
