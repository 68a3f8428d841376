"""Take `report.png`, `report_390.png`, `demo.png` and `demo_390.png` in a browser, of what `make quickstart` leaves.

python docs/figures/pages.py runs/quickstart
"""

import subprocess
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
COMMAND = (sys.executable, "-c", "from oddetr.cli import main; raise SystemExit(main())")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 1250}


def report(browser: Any, run: str) -> None:
    """Write the report's figures: wide and light, and on a phone in the dark."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "report.html")
        subprocess.run([*COMMAND, "report", run, "--out", str(file)], check=True)
        for name, size, scheme in (("report", WIDE, "light"), ("report_390", PHONE, "dark")):
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(file.as_uri())
            page.screenshot(path=FOLDER / f"{name}.png")


def demo(browser: Any, run: str) -> None:
    """Write the demo's figures with the first test scene of the run."""
    scene = sorted(Path(run, "scenes", "test").glob("*.png"))[0]
    with subprocess.Popen([*COMMAND, "demo", run], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[0] for line in process.stdout if line.startswith("http"))
            for name, size, scheme in (("demo", WIDE, "light"), ("demo_390", PHONE, "dark")):
                page = browser.new_page(viewport=size, color_scheme=scheme)
                page.goto(address)
                page.locator("input[type=file]").first.set_input_files(scene)
                page.get_by_text("with a score of at least").wait_for()
                page.wait_for_timeout(1500)
                page.screenshot(path=FOLDER / f"{name}.png", full_page=True)
        finally:
            process.terminate()


if __name__ == "__main__":
    browsers = filter(None, map(which, ("chromium", "chromium-browser", "google-chrome")))
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=next(browsers), args=["--no-sandbox"])
        report(running, sys.argv[1])
        demo(running, sys.argv[1])
        running.close()
