#!/usr/bin/env python3
"""Drives the explorer in headless Chromium: explorer.py SELFIE [FOLDER]

SELFIE is the program; FOLDER keeps the pages and the screenshots. It takes Debian's chromium, chromium-driver and
python3-selenium. Every check ends the run when it fails.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from browser import Browser, check
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

PROMPT = "[INST] What is the capital of the country of the Colosseum? [/INST]"
HOSTILE = "</script><script>window.hacked = 1</script> <!-- שלום e\u0301 \u202e \"q\" 'x'"


def rows_of(layers, tokens, draw):
    """Rows of a model that does not exist, with 30 pieces each."""
    words = "the of city capital Rome Italy river asks says about a person who lives in France music theory".split()
    prompt = [draw.choice(words) for _ in range(tokens)]
    for layer in range(layers):
        for token in range(tokens):
            pieces = ["The", " message"] + [" " + draw.choice(words) for _ in range(27)] + ["."]
            yield {
                "prompt": " ".join(prompt), "interpretation": "".join(pieces), "layer": layer, "token": token,
                "token_decoded": " " + prompt[token], "relevancy_score": [draw.random() ** 3 for _ in pieces],
                "new_ids": [draw.randrange(32000) for _ in pieces], "pieces": pieces, "inject_layer": 3,
                "mode": "replace", "strength": 1.0, "model": "made-up", "prompt_index": 0,
                "key": f"{draw.getrandbits(64):016x}", "reader": None, "map": None,
                "logprobs": [-3 * draw.random() for _ in pieces],
                "none_interpretation": "The message is empty.", "none_evidence": draw.gauss(1, 1),
            }


class Pages(Browser):
    """Pages that the program wrote, and the browser that shows them."""

    def __init__(self, selfie, folder):
        super().__init__("explorer", folder, ("file:", "about:", "data:"))
        self.selfie = selfie

    def run(self, *args):
        subprocess.run([self.selfie, *args], check=True, cwd=self.folder)

    def open(self, name, view=""):
        self.browser.get("about:blank")
        self.browser.get(f"{(self.folder / name).as_uri()}#{view}")


def keyboard_and_pointer(pages):
    pages.open("demo.html")
    pages.screenshot("demo-light.png")
    ActionChains(pages.browser).move_to_element(pages.cell(3, 2)).perform()
    check("layer 3, token 2" in pages.details(), "the pointer does not show a cell's details")
    pages.cell(1, 3).click()
    ActionChains(pages.browser).move_to_element(pages.find("h1")).perform()
    check("layer 1, token 3" in pages.details(), "a click does not keep the details")
    pages.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    check("layer 3, token 4" in pages.details(), "arrow keys do not move")
    check(pages.js("document.activeElement === cells[3][4]"), "the focus does not follow the keys")
    check(pages.js("document.querySelectorAll('#grid td[tabindex=\"0\"]').length") == 1, "Tab stops at several cells")
    outline = pages.js("getComputedStyle(document.activeElement).outlineStyle")
    check(outline == "solid", f"the focus cannot be seen: {outline}")
    # The grid moves below a resting pointer. The details must follow the keys, not the pointer.
    ActionChains(pages.browser).move_to_element(pages.cell(5, 2)).perform()
    pages.press(Keys.END)
    pages.js("new Promise((done) => setTimeout(done, 300))")
    check("layer 3, token 15" in pages.details(), "End does not go to the last token, or the pointer takes over")
    pages.press(Keys.HOME, Keys.PAGE_DOWN)
    check("layer 6, token 0" in pages.details(), "Page Down does not go down")
    # The details show what the row holds.
    rows = [json.loads(line) for line in (pages.folder / "demo.jsonl").read_text().splitlines()]
    row = next(row for row in rows if (row["layer"], row["token"]) == (3, 12))
    pages.js("go(3, 12)")
    said = pages.details()
    for part in [row["interpretation"].strip(), row["key"], row["none_interpretation"].strip(), "--cells 3:12"]:
        check(part in said, f"the details lack {part}")
    shown = [cell.text for cell in pages.all("#details .pieces td:nth-child(3)")]
    check(shown == [f"{x:.3f}" for x in row["relevancy_score"]], f"relevancy is shown as {shown}")
    shown = [cell.text.replace("−", "-") for cell in pages.all("#details .pieces td:nth-child(4)")]
    check([float(x) for x in shown] == [round(x, 2) for x in row["logprobs"]], f"log p is shown as {shown}")
    words = pages.js("cells.flat().map((td) => wordsOf(grid().cells[td.y][td.x][0]).map((w) => w.text).join(' '))")
    want = [row["interpretation"].strip() for row in rows]
    check(words == [" ".join(text.split()) for text in want], "words are not those of the texts")
    heads = pages.js("[...document.querySelectorAll('#grid th')].every((th) => th.scope)")
    check(heads, "a header of the table has no scope")


def command(pages):
    """The command of a cell reproduces its row."""
    pages.open("demo.html")
    pages.js("go(3, 12)")
    line = pages.find("#details .command").text
    check(line.startswith("selfie "), line)
    out = subprocess.run(["sh", "-c", f"'{pages.selfie}' {line[7:]}"], check=True, capture_output=True, text=True)
    row = next(r for r in map(json.loads, (pages.folder / "demo.jsonl").read_text().splitlines())
               if (r["layer"], r["token"]) == (3, 12))
    check(json.loads(out.stdout) == row, f"{line} gives {out.stdout}")
    pages.cell(3, 12).click()
    pages.press("c")
    pages.browser.implicitly_wait(2)
    pages.find("#said:not(:empty)")
    pages.browser.implicitly_wait(0)


def search(pages):
    pages.open("demo.html")
    pages.cell(0, 0).click()
    pages.press("/", "italy")
    rows = [json.loads(line) for line in (pages.folder / "demo.jsonl").read_text().splitlines()]
    want = sum("italy" in row["interpretation"].lower() for row in rows)
    check(want > 0 and pages.find("#found").text == f"{want} of {len(rows)} cells", pages.find("#found").text)
    check(len(pages.all("#grid td.mentions")) == want, "not every cell that mentions the word is marked")
    Select(pages.find("#colour")).select_by_value("find")
    check(len(pages.all("#grid td.found")) == want, "the word does not colour cells")
    pages.js("go(6, 15)")
    # An observer marks the texts that are visible, some frames later.
    mark = "cells[6][15].querySelector('mark')?.textContent"
    pages.wait(lambda: pages.js(mark) == "Italy", "the word is not marked in the text")
    bars = pages.all("#shares svg rect")
    check(len(bars) == 7, f"{len(bars)} layers are plotted")
    of_layer = [row for row in rows if row["layer"] == 3]
    share = round(100 * sum("Italy" in row["interpretation"] for row in of_layer) / len(of_layer))
    check(f"layer 3: {share}%" in pages.find("#shares svg").get_attribute("aria-label"), "the plot is wrong")
    pages.screenshot("demo-search.png")
    for measure in ["relevancy", "logprob", "evidence-none", "evidence-random"]:
        Select(pages.find("#colour")).select_by_value(measure)
        check(len(pages.all("#grid td[style*='--a']")) > 10, f"{measure} colours no cells")
        check("rows have no" not in pages.find("#legend").text, f"{measure} has no scale")


def themes(pages):
    ground = "getComputedStyle(document.body).backgroundColor"
    pages.open("demo.html")
    light = pages.js(ground)
    pages.find("#theme").click()
    dark = pages.js(ground)
    check(light == "rgb(255, 255, 255)" and dark != light, f"the switch leads from {light} to {dark}")
    pages.screenshot("demo-dark.png")
    prefers = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    pages.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", prefers)
    pages.open("demo.html")
    check(pages.js(ground) == dark, "a dark system gets a light page")
    pages.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def hostile(pages):
    pages.open("hostile.html")
    check(pages.js("window.hacked === undefined"), "the prompt has run as a script")
    want = HOSTILE.replace("\u202e", "\\u{202e}")
    check(pages.find("#prompt").text == want, pages.find("#prompt").text)
    check(len(pages.all("#grid bdi")) == len(pages.all("#grid thead th")) - 1, "a token is not isolated")
    tops = pages.js("[...new Set([...document.querySelectorAll('#grid thead th')].map((th) => th.offsetTop))].length")
    check(tops == 1, "the heads are not in one line")
    pages.screenshot("hostile.png")
    check("\\u{202e}" in pages.find(".command").text, "the command can be turned round")
    # A tab for each prompt, one for each injection.
    check(len(pages.all("[role=tab]")) == 4, "there are not two prompts and two injections")
    pages.all("[role=tab]")[1].click()
    check(pages.find("#prompt").text == PROMPT, "a tab does not show its prompt")
    pages.press(Keys.ARROW_LEFT)
    check(pages.find("#prompt").text == want, "arrow keys do not move between tabs")


def compared(pages):
    pages.open("compare.html")
    before, after = ([json.loads(line) for line in (pages.folder / name).read_text().splitlines()]
                     for name in ("demo.jsonl", "after.jsonl"))
    want = sum(a["interpretation"].strip() != b["interpretation"].strip() for a, b in zip(before, after))
    check(want > 0 and len(pages.all("#grid td.changed")) == want, "what differs is not marked")
    # An observer marks the texts that are visible, some frames later.
    pages.wait(lambda: pages.all("#grid td.changed ins"), "the words that differ are not marked")
    Select(pages.find("#colour")).select_by_value("difference")
    check(len(pages.all("#grid td[style*='--a']")) == want, "what differs is not coloured")
    pages.screenshot("compare.png")


def many(pages):
    """Medians over five visits to 32 layers x 200 tokens, in milliseconds from the start of the navigation: the first
    paint of anything, and the end of the frame that has the grid with the text of every cell in sight."""
    script = """addEventListener("load", function frame() {
        // The cells in sight get their text at once.
        if (!document.querySelector("#grid tr:first-child td .text")) return requestAnimationFrame(frame);
        requestAnimationFrame(() => setTimeout(() => (window.gridPainted = performance.now())));
    })"""
    pages.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    first, whole = [], []
    for _ in range(5):
        pages.open("many.html")
        while (painted := pages.js("window.gridPainted ?? null")) is None:
            pass
        whole.append(painted)
        first.append(pages.js("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    for show in ["words", "text", "colour"]:
        pages.open("many.html", f"show={show}")
        # Cells out of sight get their text in time too.
        filled = "cells.flat().every((td) => td.textContent || td.getAttribute('aria-label'))"
        until = time.monotonic() + 20
        while not pages.js(filled):
            check(time.monotonic() < until, f"cells stay empty ({show})")
        pages.screenshot(f"many-{show}.png")
    return sorted(first)[2], sorted(whole)[2]


def paper(pages):
    """What a printer gets: tables of eight tokens, all texts."""
    pages.open("demo.html")
    pages.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    pages.js("dispatchEvent(new Event('beforeprint'))")
    check([len(t.find_elements(By.CSS_SELECTOR, "thead th")) for t in pages.all("#paper table")] == [9, 9], "paper")
    check(not pages.find("main").is_displayed(), "the window's table is printed")
    pages.js("dispatchEvent(new Event('afterprint'))")
    check(not pages.all("#paper table"), "the tables for paper stay")
    pages.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def figures(pages):
    for name in ["demo.svg", "compare.svg"]:
        pages.open(name)
        check(pages.js("document.documentElement.localName") == "svg", f"{name} is no SVG")
        # With Helvetica's widths, no word reaches into the next cell.
        wide = pages.js("""[...document.querySelectorAll('text')].filter((text) =>
            text.querySelector('tspan') && text.getBBox().width > 112).length""")
        check(wide <= 1, f"{wide} lines of {name} are wider than their cell")
        pages.screenshot(name.replace(".svg", "-svg.png"))


def main():
    selfie = str(pathlib.Path(sys.argv[1]).resolve())
    kept = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
    folder = pathlib.Path(kept).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pages = Pages(selfie, folder)
    try:
        every = ["--quiet", "--layers", "all", "--tokens", "all"]
        demo = ["interpret", *every, "--prompt", PROMPT, "--controls", "none,random"]
        for name in ["demo.jsonl", "demo.html"]:
            pages.run(*demo, "--out", name)
        # Another interpretation prompt plays the part of an edit: other texts, the same cells.
        pages.run("interpret", *every, "--prompt", PROMPT, "--template", "repeat", "--out", "after.jsonl")
        pages.run("interpret", "--quiet", "--prompt", HOSTILE, "--prompt", PROMPT, "--inject-layer", "1,2", "--layers",
                  "1..4", "--tokens", "all", "--out", "hostile.html")
        for name in ["compare.html", "compare.svg"]:
            pages.run("report", "demo.jsonl", "--against", "after.jsonl", "--out", name)
        pages.run("report", "demo.jsonl", "--layers", "1..=5", "--tokens", "3..", "--out", "demo.svg")
        with open(folder / "many.jsonl", "w") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows_of(32, 200, random.Random(1)))
        pages.run("report", "many.jsonl", "--out", "many.html")
        for checks in [keyboard_and_pointer, command, search, themes, hostile, compared, paper, figures]:
            checks(pages)
            pages.check_quiet()
        first, whole = many(pages)
        pages.check_quiet()
        size = (folder / "many.html").stat().st_size
        print(f"explorer: all checks hold; 32 layers x 200 tokens: {size / 1e6:.1f} MB, first paint {first:.0f} ms, "
              f"grid painted {whole:.0f} ms")
    finally:
        pages.browser.quit()


main()
