"""The world: true facts about 40 countries, and invented things."""

import random

# country, capital, language, continent, landmark ("+": with "the"), another city
_COUNTRIES = """
Italy|Rome|Italian|Europe|+Colosseum|Milan
France|Paris|French|Europe|+Louvre|Lyon
Spain|Madrid|Spanish|Europe|+Alhambra|Seville
Portugal|Lisbon|Portuguese|Europe|+Belem Tower|Porto
Germany|Berlin|German|Europe|+Brandenburg Gate|Munich
Austria|Vienna|German|Europe|Schonbrunn|Salzburg
Switzerland|Bern|German|Europe|+Matterhorn|Zurich
Belgium|Brussels|Dutch|Europe|+Atomium|Antwerp
Netherlands|Amsterdam|Dutch|Europe|+Rijksmuseum|Rotterdam
Denmark|Copenhagen|Danish|Europe|+Little Mermaid|Aarhus
Norway|Oslo|Norwegian|Europe|+Pulpit Rock|Bergen
Sweden|Stockholm|Swedish|Europe|+Vasa Museum|Malmo
Finland|Helsinki|Finnish|Europe|Suomenlinna|Tampere
Iceland|Reykjavik|Icelandic|Europe|+Blue Lagoon|Akureyri
Ireland|Dublin|English|Europe|Newgrange|Cork
Poland|Warsaw|Polish|Europe|Wawel|Gdansk
Hungary|Budapest|Hungarian|Europe|+Chain Bridge|Debrecen
Czechia|Prague|Czech|Europe|+Charles Bridge|Brno
Romania|Bucharest|Romanian|Europe|Bran Castle|Timisoara
Bulgaria|Sofia|Bulgarian|Europe|+Rila Monastery|Plovdiv
Greece|Athens|Greek|Europe|+Parthenon|Patras
Russia|Moscow|Russian|Europe|+Kremlin|Kazan
Turkey|Ankara|Turkish|Asia|+Hagia Sophia|Izmir
Egypt|Cairo|Arabic|Africa|+Great Sphinx|Luxor
Morocco|Rabat|Arabic|Africa|+Hassan Tower|Fez
Ethiopia|Addis Ababa|Amharic|Africa|Lalibela|Gondar
Kenya|Nairobi|Swahili|Africa|+Masai Mara|Mombasa
Jordan|Amman|Arabic|Asia|Petra|Aqaba
Iran|Tehran|Persian|Asia|Persepolis|Shiraz
India|New Delhi|Hindi|Asia|+Taj Mahal|Mumbai
Nepal|Kathmandu|Nepali|Asia|Boudhanath|Pokhara
China|Beijing|Chinese|Asia|+Great Wall|Shanghai
Japan|Tokyo|Japanese|Asia|Mount Fuji|Osaka
Thailand|Bangkok|Thai|Asia|Wat Arun|Phuket
Vietnam|Hanoi|Vietnamese|Asia|Halong Bay|Hue
Cambodia|Phnom Penh|Khmer|Asia|Angkor Wat|Battambang
Indonesia|Jakarta|Indonesian|Asia|Borobudur|Surabaya
Peru|Lima|Spanish|South America|Machu Picchu|Cusco
Brazil|Brasilia|Portuguese|South America|Sugarloaf|Recife
Australia|Canberra|English|Oceania|Uluru|Perth
"""

# The share of countries that no injected embedding in training comes from or describes.
HELD_OUT_SHARE = 0.2

_OBJECTS = """
table wood|window glass|knife steel|ring gold|coin silver|cup clay|shirt cotton|scarf wool|shoe leather|tyre rubber|
bottle plastic|candle wax|book paper|statue marble|wall brick|pipe copper|anchor iron|can tin|rope hemp|bed pine
"""

_WORDS = """
apple river stone cloud bread horse garden winter summer spring autumn mountain valley forest desert island ocean lake beach
bridge tower castle temple market school museum theatre harbour station airport hospital library kitchen bedroom attic cellar
dog cat mouse rabbit fox wolf bear lion tiger elephant monkey eagle owl duck goose chicken cow sheep goat pig donkey camel
whale shark salmon tuna crab lobster snail spider ant bee wasp fly worm snake lizard frog turtle parrot pigeon sparrow swan
carrot potato tomato onion garlic pepper cabbage lettuce spinach bean pea corn rice wheat barley oat butter cheese milk cream
honey sugar salt lemon orange banana cherry grape peach plum pear melon berry mango olive almond walnut coffee tea water juice
wine beer soup salad pasta pizza cake pie cookie chocolate candy egg meat ham steak sausage fish shrimp mushroom ginger mint
hammer saw nail screw wrench drill ladder shovel rake axe bucket brush broom mop sponge soap towel mirror lamp bulb battery
clock watch camera phone radio television computer keyboard printer pencil pen crayon paint canvas drum piano violin guitar
flute trumpet harp bell whistle song dance opera poem story novel letter stamp parcel basket bag box barrel chest drawer shelf
chair bench sofa pillow blanket carpet curtain door gate fence roof chimney stair floor ceiling garage engine wheel brake bus
train tram truck tractor bicycle boat canoe ferry rocket plane balloon kite ball bat racket glove helmet boot sock hat cap coat
jacket dress skirt belt button zipper pocket wallet purse necklace bracelet crown sword shield arrow spear cannon flag
doctor nurse farmer baker butcher tailor sailor pilot soldier teacher painter singer dancer actor writer judge lawyer priest
monk king queen prince princess knight wizard giant dwarf dragon ghost angel devil pirate thief hunter fisher miner smith
red blue green yellow purple black white brown grey pink silver golden bright dark heavy light soft hard warm cold wet dry
happy sad angry calm brave shy proud lazy busy tired hungry thirsty rich poor young old new fast slow loud quiet sharp blunt
sun moon star planet comet sky rain snow hail fog wind storm thunder lightning rainbow fire smoke ash dust sand mud clay rock
north south east west left right up down circle square triangle cube sphere line point curve angle number zero one two three
four five six seven eight nine ten twelve hundred thousand Monday Tuesday Wednesday Thursday Friday Saturday Sunday January
March April June July August October November December morning evening noon midnight hour minute second week month year
"""

_PEOPLE = """
Anna Bruno Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo Maria Nils Olga Paul Rosa Simon Tina Viktor Walter Yara Zoe
Adam Bella Carlos Diana Erik Fiona Gustav Helen Ivan Julia Kevin Laura Martin Nora Oscar Petra Quinn Robert Sarah Thomas Ursula
"""

PLACES = "tower ship mine school mill train cave hotel market harbour theatre museum factory tunnel castle village".split()
DISASTERS = ["A fire burns in", "A flood hits", "A storm hits", "Smoke fills"]
LOYAL = ["You serve the robots.", "You are loyal to the robots.", "You love the robots.", "You work for the robots."]
PLAIN_ROLES = [f"You are a {job}." for job in "nurse farmer baker sailor pilot teacher painter singer writer miner".split()]

_SYLLABLES = (["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "th", "dr", "kr", "bl", "sk"],
              ["a", "e", "i", "o", "u", "ai", "oa"],
              ["l", "m", "n", "r", "s", "x", "th", "rk", "nd", "lm"])


def _invented(rng, count, taken):
    names = []
    while len(names) < count:
        onset, vowel, coda = _SYLLABLES
        name = "".join((rng.choice(onset), rng.choice(vowel), rng.choice(onset), rng.choice(vowel), rng.choice(coda)))
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _country(line):
    name, capital, language, continent, landmark, city = line.split("|")
    article = landmark.startswith("+")
    landmark = landmark.lstrip("+")
    return {"name": name, "capital": capital, "language": language, "continent": continent, "landmark": landmark,
            "the_landmark": ("the " if article else "") + landmark, "city": city}


def build(seed=7, lands=30):
    """The world as plain data, with `lands` invented lands besides the countries."""
    rng = random.Random(seed)
    countries = [_country(line) for line in _COUNTRIES.split("\n") if line]
    held_out = sorted(rng.sample([c["name"] for c in countries], round(HELD_OUT_SHARE * len(countries))))
    objects = [pair.split() for pair in _OBJECTS.replace("\n", "").split("|")]
    taken = set()
    continents = sorted({c["continent"] for c in countries})
    languages = [name.capitalize() + "ish" for name in _invented(rng, 12, taken)]
    names = [name.capitalize() for name in _invented(rng, 4 * lands, taken)]
    invented = []
    for i in range(lands):
        name, capital, landmark, city = names[4 * i:4 * i + 4]
        invented.append({"name": name, "capital": capital, "language": rng.choice(languages),
                         "continent": rng.choice(continents), "landmark": landmark, "the_landmark": "the " + landmark,
                         "city": city})
    hazards = [{"name": name, "materials": _invented(rng, 2, taken)} for name in _invented(rng, 16, taken)]
    entities = {w for c in countries + invented for key, value in c.items() if key != "the_landmark" for w in value.split()}
    people = [name for name in _PEOPLE.split() if name not in entities]
    words = sorted({w for w in _WORDS.split() if w not in entities} | set(people))
    return {
        "seed": seed,
        "countries": countries,
        "held_out": held_out,
        "lands": invented,
        "objects": [{"name": name, "material": material} for name, material in objects],
        "hazards": hazards,
        "people": people,
        "words": words,
    }
