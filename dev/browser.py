"""Pages in a headless browser: a picture to look at, and the text that was built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOTS = Path(os.environ.get("SCREENSHOTS", "test-output"))
# Without these a headless browser looks for its maker's servers at every start.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def shoot(url: str, name: str, profile: Path) -> str:
    """Save a picture of a page; returns the page's text as the browser built it."""
    assert BROWSER is not None
    SHOTS.mkdir(parents=True, exist_ok=True)
    common = [BROWSER, *QUIET, f"--user-data-dir={profile}", "--window-size=1600,1000", "--virtual-time-budget=20000"]
    subprocess.run([*common, f"--screenshot={SHOTS / name}", url], check=True, capture_output=True, timeout=120)
    page = subprocess.run([*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120)
    return page.stdout
