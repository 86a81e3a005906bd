"""A real Chromium, driven by WebDriver, and what a user does on the web page with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--force-prefers-reduced-motion",  # colours are what they will be at once
    "--lang=en-GB",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
PATIENCE_S = 60.0
DESKTOP, PHONE = (1280, 860), (390, 844)
_GONE = (NoSuchElementException, StaleElementReferenceException)  # the page has drawn this part anew
_ALERTS = "window.alert = (text) => { (window.alerts ??= []).push(text); };"


class Browser:
    """One window of the page; what a method does not find at once, it waits for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.url = ""

    def open(self, url: str, token: str = "", at: str = "") -> None:
        """Load the page anew, signed in with this token."""
        self.url = url
        self.driver.get("about:blank")
        self.driver.get(f"{url}#token={token}" if token else f"{url}{at}")
        if token:
            self.wait_text("live")
            self.go(at)

    def forget(self) -> None:
        """Forget tokens and settings, and what the last test left open."""
        for handle in self.driver.window_handles[1:]:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
        self.size(*DESKTOP)
        self.console()

    def go(self, at: str) -> None:
        """Show another part of the page: `#/servers`."""
        self.driver.execute_script("window.location.hash = arguments[0]", at or "#/")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str = "body") -> str:
        """Return the text that is shown; "" if there is no such element."""
        found = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def until(self, holds: Callable[[], Any], what: object) -> Any:
        """Wait for the page; a failure shows its text and what its console has."""

        def held() -> Any:
            try:
                return holds()
            except _GONE:
                return None

        return until(held, lambda: f"{what}; the page:\n{self.text()}\n{self.console()}", PATIENCE_S, 0.02)

    def wait_text(self, text: str, selector: str = "body") -> str:
        """Wait until an element shows a text, and return all that it shows."""
        found: str = self.until(lambda: self._with(text, selector), f"{selector} shows {text!r}")
        return found

    def _with(self, text: str, selector: str) -> str:
        shown = self.text(selector)
        return shown if text in shown else ""

    def wait_gone(self, selector: str) -> None:
        self.until(lambda: not self.driver.find_elements(By.CSS_SELECTOR, selector), f"no {selector}")

    def find(self, selector: str) -> WebElement:
        found: WebElement = self.until(lambda: self.driver.find_element(By.CSS_SELECTOR, selector), selector)
        return found

    def click(self, text: str, within: str = "body") -> None:
        """Click the first button or link with exactly this text."""
        self.until(lambda: self.press(text, within), f"the button {text!r} in {within}")

    def press(self, text: str, within: str = "body") -> bool:
        """Click it if there is such a button now, and return whether there is."""
        script = (
            "const found = [...document.querySelectorAll(arguments[0])].flatMap((each) => [...each.querySelectorAll("
            "'button, a')]).find((each) => each.innerText.trim() === arguments[1] && !each.disabled);"
            "found?.click(); return Boolean(found);"
        )
        return bool(self.run(script, within, text))

    def confirm(self, button: str) -> None:
        """Confirm the open dialog, and wait until it has closed."""
        self.find("dialog[open]")
        self.click(button, "dialog[open] footer")
        self.wait_gone("dialog")

    def fill(self, selector: str, text: str) -> None:
        """Type a text in place of what a field has."""
        field = self.find(selector)
        self.run("arguments[0].select()", field)  # `clear` would leave the page's own state, which it draws again
        field.send_keys(text)

    def json(self, path: str) -> Any:
        """Return what the page's server replies to this browser."""
        script = "fetch(arguments[0]).then((reply) => reply.json()).then(arguments[1])"
        return self.driver.execute_async_script(script, path)

    def console(self) -> list[str]:
        """Return what the console has got since the last call."""
        try:
            return [str(each["message"]) for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
        except WebDriverException:
            return []

    def size(self, width: int, height: int) -> None:
        """Make the page's part of the window that large, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def theme(self, name: str) -> None:
        """Choose "light" or "dark" as the page's own switch does."""
        self.run("document.documentElement.dataset.theme = arguments[0]", name)


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """Start a browser with a new profile; end it in any case."""
    chosen = webdriver.ChromeOptions()
    for option in (*_OPTIONS, *options):
        chosen.add_argument(option)
    chosen.binary_location = CHROMIUM
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=chosen, service=Service(DRIVER))
    try:
        driver.set_script_timeout(PATIENCE_S)
        driver.set_page_load_timeout(PATIENCE_S)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _ALERTS})
        browser = Browser(driver)
        browser.size(*DESKTOP)
        yield browser
    finally:
        driver.quit()


def alerts(browser: Browser) -> list[str]:
    """Return what scripts of hostile strings have called."""
    return list(json.loads(browser.run("return JSON.stringify(window.alerts ?? [])")))
