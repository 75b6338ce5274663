#!/usr/bin/env python3
"""Drives the live explorer in headless Chromium: serve.py SELFIE [FOLDER]

SELFIE is the program; FOLDER keeps the screenshots. It takes what explorer.py takes. Every check ends the run when it
fails.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from browser import Browser, check
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

PROMPT = "[INST] What is the capital of the country of the Colosseum? [/INST]"
HOSTILE = "</script><script>window.hacked = 1</script> שלום e\u0301 \u202e <b>x</b>"


class Server:
    """`selfie serve` on a port of its own."""

    def __init__(self, selfie, *args):
        command = [selfie, "serve", "--quiet", "--port", "0", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[0]

    def get(self, path):
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)

    def requests(self):
        return self.get("healthz")["requests"]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        check(self.process.wait(timeout=10) == 0, "Ctrl-C does not end the server well")


class Pages(Browser):
    """Tabs on a server."""

    def __init__(self, folder):
        super().__init__("serve", folder, ("http://127.0.0.1:", "about:", "data:"))

    def open(self, server):
        self.browser.get(server.url)
        self.wait(lambda: self.all("#template option"), "the settings do not arrive")

    def type(self, text):
        field = self.find("#text")
        field.clear()
        self.js("arguments[0].value = arguments[1]", field, text)
        field.send_keys(Keys.ENTER)
        self.wait(lambda: self.all("#grid td") and "tokens" in self.find("#asked").text, "no tokens come")

    def filled(self):
        return self.js("cells.flat().filter((td) => td.textContent || td.getAttribute('aria-label')).length")

    def set(self, css, value):
        self.js("arguments[0].value = arguments[1]", self.find(css), value)

    def wait_idle(self):
        self.wait(lambda: not self.find("#stop").is_enabled(), "the work does not end")


def typing_and_streaming(pages, server):
    pages.open(server)
    pages.screenshot("start.png")
    check(pages.js("document.activeElement.id") == "text", "the prompt has not the focus")
    pages.type(PROMPT)
    heads = [head.text for head in pages.all("#grid thead bdi")]
    check(len(heads) == 16 and "Colosseum" in "".join(heads), f"the tokens are {heads}")
    check(len(pages.all("#grid tbody tr")) == 7, "there are not seven layers")
    check(pages.filled() == 0, "cells are filled before they are asked for")
    # The driver itself would scroll the cell below the head of its layer.
    pages.js("cells[3][8].scrollIntoView({ inline: 'center' })")
    pages.cell(3, 8).click()
    pages.wait(lambda: pages.filled() == 1, "a click does not interpret the cell")
    check("layer 3, token 8" in pages.details() and "relevancy" in pages.details(), pages.details())
    check("selfie interpret" in pages.find(".command").text, "the cell has no command")
    pages.find("#ask-column").click()
    pages.wait(lambda: pages.filled() == 7, "a token is not interpreted at all layers")
    pages.find("#grid tbody tr:nth-child(3) th").click()
    pages.wait(lambda: pages.filled() == 7 + 15, "a layer is not interpreted at all tokens")
    pages.find("#ask-all").click()
    pages.wait(lambda: pages.filled() == 7 * 16, "not all cells are interpreted")
    pages.wait_idle()
    pages.js("go(3, 8)")
    pages.wait(lambda: "112 of 112" in pages.find("#asked").text, "the count is not shown")
    pages.screenshot("live-light.png")
    # The command on the page reproduces the cell.
    command = pages.find(".command").text.split(" ", 1)[1]
    row = subprocess.run(f"{pages.selfie} {command} --quiet --format jsonl", shell=True, check=True, capture_output=True)
    text = json.loads(row.stdout)["interpretation"].strip()
    check(pages.find("#details .whole").text == text, f"the command says {text}")


def keyboard(pages, server):
    pages.open(server)
    pages.type(PROMPT)
    pages.js("go(2, 5)")
    pages.press(Keys.ENTER)
    pages.wait(lambda: pages.filled() == 1, "Enter does not interpret the cell")
    pages.press(Keys.ARROW_DOWN)
    check("Not interpreted yet" in pages.details(), "an empty cell does not say what to do")
    pages.press("r")
    pages.wait(lambda: pages.filled() == 17, "r does not interpret the layer")
    pages.press("t")
    pages.wait(lambda: pages.filled() == 22, "t does not interpret the token")
    pages.press("a", Keys.ESCAPE)
    pages.wait_idle()
    check(pages.js("cells.flat().every((td) => td.ariaBusy !== 'true')"), "cells still wait after Escape")
    check("stopped" in pages.find("#asked").text or "112 of 112" in pages.find("#asked").text, "Escape does not stop")
    check(pages.find("#asked").get_attribute("role") == "status", "screen readers are not told of progress")
    unnamed = pages.js("""[...document.querySelectorAll('#ask input, #ask select, #ask textarea, #generate input, #generate select')]
        .filter((field) => !field.labels.length).map((field) => field.id)""")
    check(not unnamed, f"fields without a label: {unnamed}")


def settings(pages, server):
    pages.open(server)
    pages.type(PROMPT)
    pages.js("go(3, 8)")
    pages.find("#ask-cell").click()
    pages.wait(lambda: pages.filled() == 1, "no cell comes")
    Select(pages.find("#template")).select_by_value("repeat")
    pages.set("#strength", "0.5")
    for box in pages.all("#controls input"):
        box.click()
    pages.find("#ask-cell").click()
    pages.wait(lambda: len(pages.all("#tabs [role=tab]")) == 2, "another setting does not open a tab")
    pages.wait(lambda: "shuffled" in pages.details(), "the controls do not come")
    check("--template repeat" in pages.find(".command").text, pages.find(".command").text)
    pages.set("#temperature", "0.8")
    pages.set("#samples", "3")
    pages.find("#ask-row").click()
    pages.wait(lambda: pages.filled() == 16, "samples do not come")
    pages.wait_idle()
    check(len(pages.all("[aria-label=Sample] [role=tab]")) == 3, "there are not three samples")
    Select(pages.find("#colour")).select_by_value("evidence-random")
    pages.wait(lambda: len(pages.all("#grid td[style*='--a']")) > 5, "evidence colours no cells")
    pages.screenshot("settings.png")
    pages.set("#inject-layer", "77")
    pages.find("#ask-cell").click()
    pages.wait(lambda: "77" in pages.find("#asked").text, "the page does not say what is wrong")
    check("wrong" in pages.find("#asked").get_attribute("class"), "an error looks like any message")
    # The browser logs the refusal in the console, as it does for every such answer.
    pages.browser.get_log("browser")
    pages.open(server)
    pages.find("#chat").click()
    pages.type("Where is Rome?")
    check("[INST]" in pages.find("#prompt").text, "the chat template is not used")


def steering(pages, server):
    pages.open(server)
    pages.type(PROMPT)
    pages.js("go(3, 8)")
    pages.find("#steer").click()
    pages.set("#steer-strength", "3")
    pages.find("#continue").click()
    pages.wait_idle()
    texts = [text.text for text in pages.all("#texts p")]
    check(len(texts) == 2 and texts[0] == "Rome." and texts[0] != texts[1], f"the texts are {texts}")
    pages.screenshot("steered.png")


def dark(pages, server):
    ground = "getComputedStyle(document.body).backgroundColor"
    pages.open(server)
    light = pages.js(ground)
    pages.find("#theme").click()
    check(pages.js(ground) != light, "the page does not become dark")
    pages.type(PROMPT)
    pages.find("#ask-all").click()
    pages.wait(lambda: pages.filled() == 112, "not all cells come")
    pages.js("go(3, 8)")
    pages.wait_idle()
    pages.screenshot("live-dark.png")
    pages.find("#theme").click()


def escaping(pages, server):
    pages.open(server)
    pages.type(HOSTILE)
    check(pages.js("window.hacked === undefined"), "the prompt has run as a script")
    check(not pages.all("#prompt b"), "the prompt is taken for HTML")
    check(pages.find("#prompt").text == HOSTILE.replace("\u202e", "\\u{202e}"), pages.find("#prompt").text)
    pages.find("#ask-column").click()
    pages.wait(lambda: pages.filled() == 7, "cells do not come")
    tops = pages.js("[...new Set([...document.querySelectorAll('#grid thead th')].map((th) => th.offsetTop))].length")
    check(tops == 1, "the heads are not in one line")
    pages.screenshot("hostile-live.png")
    # The policy holds: what is not the page's own does not run.
    policy = pages.js("fetch('/').then((page) => page.headers.get('content-security-policy'))")
    check("unsafe" not in policy and "sha256-" in policy, policy)


def tabs(pages, server):
    """Two tabs share the server. Closing one ends its work."""
    long = "askCells(ASKS.all())"
    pages.open(server)
    pages.type(PROMPT)
    first = pages.browser.current_window_handle
    pages.set("#temperature", "1")
    pages.set("#samples", "20")
    pages.set("#max-new-tokens", "60")
    pages.js(f"void {long}")
    pages.browser.switch_to.new_window("tab")
    pages.open(server)
    pages.type("[INST] Who wrote a book about music? [/INST]")
    pages.find("#ask-column").click()
    pages.wait(lambda: pages.filled() == 7, "the second tab waits for the first")
    check(server.requests() >= 1, "the first tab was done too soon to say anything")
    second = pages.browser.current_window_handle
    pages.browser.switch_to.window(first)
    pages.browser.close()
    pages.browser.switch_to.window(second)
    pages.wait(lambda: server.requests() == 0, "a tab that is closed goes on working", 10)


def edits(pages, selfie, folder):
    edit = folder / "edit.safetensors"
    subprocess.run([selfie, "control", "supervised", "--quiet", "--prompt", PROMPT, "--source", "3:12",
                    "--target-prompt", PROMPT.replace("Colosseum", "Louvre"), "--target", "3:12", "--steps", "6",
                    "--lr", "1e-2", "--out", edit, "--log", folder / "log.jsonl"], check=True, capture_output=True)
    server = Server(selfie, "--edit", str(edit))
    try:
        pages.open(server)
        pages.type(PROMPT)
        pages.find("#ask-all").click()
        pages.wait(lambda: pages.filled() == 112, "not all cells come")
        pages.wait_idle()
        rows = [[json.loads(line) for line in subprocess.run(
            [selfie, "interpret", "--quiet", "--prompt", PROMPT, "--layers", "all", "--tokens", "all", *edited],
            check=True, capture_output=True, text=True).stdout.splitlines()] for edited in ([], ["--edit", str(edit)])]
        want = sum(a["interpretation"].strip() != b["interpretation"].strip() for a, b in zip(*rows))
        check(want > 0 and len(pages.all("#grid td.changed")) == want, f"not the {want} cells that differ are marked")
        pages.js("go(3, 8)")
        pages.screenshot("live-edit.png")
        pages.check_quiet()
    finally:
        server.end()


def main():
    selfie = str(pathlib.Path(sys.argv[1]).resolve())
    kept = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
    folder = pathlib.Path(kept).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    server = Server(selfie)
    pages = Pages(folder)
    pages.selfie = selfie
    try:
        for checks in [typing_and_streaming, keyboard, settings, steering, dark, escaping, tabs]:
            checks(pages, server)
            pages.check_quiet()
        edits(pages, selfie, folder)
    finally:
        pages.browser.quit()
        server.end()
    print(f"serve: all checks hold, in {time.monotonic() - began:.0f} s")


main()
