"""Real clients: tritonclient unchanged and schemathesis, in an environment of their own, and a browser on the page.

`M2L_CLIENTS=python` names an interpreter that has both; otherwise they are installed, or the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser, chromium
from service import Service, running
from support import ROOT

from m2l_runtime.serve.app import workshop_of

pytestmark = pytest.mark.slow

CLIENTS = ("tritonclient[http]>=2.60", "schemathesis>=4")
NOT_CHECKED = "positive_data_acceptance"
"""A schema cannot say which bytes are a mask, nor that a tensor has as many values as its shape."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "M2L_CLIENTS" in os.environ:
        return Path(os.environ["M2L_CLIENTS"])
    folder = tmp_path_factory.mktemp("clients") / "venv"
    venv.create(folder, with_pip=True)
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *CLIENTS]
    done = subprocess.run([folder / "bin" / "python", *words], capture_output=True, text=True, timeout=1200)
    if done.returncode != 0:
        pytest.skip(f"{' and '.join(CLIENTS)} cannot be had: {done.stderr.strip()[-300:]}")
    return folder / "bin" / "python"


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as one:
        yield one


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    return subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment, cwd=folder)


def test_tritonclient__works_unchanged(service: Service, python: Path, tmp_path: Path) -> None:
    done = run(tmp_path, python, ROOT / "examples" / "service" / "triton_client.py", f"localhost:{service.port}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ready: True True",
        "images: (2, 256, 256, 3) uint8",
        "as JSON the same: True",
        "in gzip the same: True",
        "samples: (6, 256, 256, 3)",
        "images made: 12",
        "refused: [400] the seed must be at least 0 and below 2^64, got -1",
    ]


def test_schemathesis__finds_nothing_that_the_description_does_not_say(
    service: Service, python: Path, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{service.port}/openapi.json"
    options = ("--checks", "all", "--exclude-checks", NOT_CHECKED, "--seed", 1, "--max-examples", 20)
    done = run(tmp_path, python.parent / "schemathesis", "run", address, *options)
    assert done.returncode == 0, done.stdout[-4000:]
    assert workshop_of(service.app).metrics.value("m2l_requests_under_way") == 0
    assert service.is_well()


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_page__makes_images_in_a_browser_and_offends_no_policy(tmp_path: Path) -> None:
    with running() as service, browser(tmp_path) as page:
        metrics = workshop_of(service.app).metrics

        def wait_for_images(count: int) -> None:
            made = 0.0
            for _ in range(600):
                made = metrics.value("m2l_requests_total", route="/synthesize", method="POST", status="200")
                if made >= count:
                    return
                time.sleep(0.05)
            raise AssertionError(f"{made} images of {count}: {page.problems()}")

        page.open(f"http://localhost:{service.port}/")
        wait_for_images(1)
        x, y = page.evaluate(
            "(() => { const box = document.querySelector('#drawing').getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind, shift in (("mousePressed", 0), ("mouseMoved", 40), ("mouseMoved", 90), ("mouseReleased", 90)):
            page.send("Input.dispatchMouseEvent", type=kind, x=x + shift, y=y + shift, button="left", clickCount=1)
        wait_for_images(2)
        assert page.problems() == []
        assert all(f"localhost:{service.port}/" in one for one in page.requests())
