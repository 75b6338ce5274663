"""Headless Chromium, as explorer.py and serve.py drive it."""

import json
import pathlib
import sys
import time

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By


def check(holds, what):
    if not holds:
        sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {what}")


class Browser:
    """A browser whose pages may request only addresses with certain beginnings."""

    def __init__(self, name, folder, allowed):
        self.name, self.folder, self.allowed = name, folder, allowed
        options = webdriver.ChromeOptions()
        for option in ["headless=new", "no-sandbox", "disable-gpu", "window-size=1440,900", "hide-scrollbars"]:
            options.add_argument(f"--{option}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.browser = webdriver.Chrome(options=options)

    def js(self, script, *args):
        return self.browser.execute_script("return " + script, *args)

    def find(self, css):
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def cell(self, layer, token):
        """The cell of a row and a column, from 0."""
        return self.find(f"#grid tbody tr:nth-child({layer + 1}) td:nth-child({token + 2})")

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def details(self):
        return self.find("#details").text

    def wait(self, holds, what, seconds=60):
        """Waits until a function returns true."""
        until = time.monotonic() + seconds
        while not holds():
            check(time.monotonic() < until, what)
            time.sleep(0.05)

    def screenshot(self, name):
        self.browser.save_screenshot(str(self.folder / name))

    def check_quiet(self):
        """Checks that the console is empty and that the page requested nothing from elsewhere."""
        said = [entry for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        check(not said, f"the console says {said}")
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                check(url.startswith(self.allowed), f"the page asks for {url}")
