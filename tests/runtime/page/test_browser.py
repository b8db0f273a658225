"""The page in headless Chromium, for both engines: what is drawn gives the pixels of `m2l synth`; and bad cases."""

from __future__ import annotations

import base64
import io
import json
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from browser import Browser, axe_core, browser, chromium, onnxruntime_web, static_host
from command_line import CommandLine
from PIL import Image
from png_bomb import png_bomb

from m2l_runtime.bundle import embedded, open_bundle
from m2l_runtime.page import SiteOptions, write_site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]

ROOT = Path(__file__).resolve().parents[3]
WAIT_S: Final = 90
LOOKS = [(1440, False), (1440, True), (390, False), (390, True)]


@contextmanager
def m2l_serve() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The service on a free port; yields its address and process."""
    command = [
        sys.executable,
        "-m",
        "m2l_runtime",
        "serve",
        "--port",
        "0",
        "--backend",
        "onnxruntime",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("serving at "):
                yield line.split()[2], process
                break
        else:
            raise AssertionError("it did not start")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@dataclass
class Page:
    """The page, opened."""

    seen: Browser
    address: str

    def open(self, width: int = 1440, *, is_dark: bool = False, has_image: bool = True) -> None:
        self.seen.open(self.address, width=width, height=844 if width < 700 else 900, is_dark=is_dark)
        self.seen.evaluate("sessionStorage.clear()")
        if has_image:
            self.until("document.getElementById('veil').hidden")

    def until(self, expression: str) -> None:
        """Wait until something is true."""
        ended = time.monotonic() + WAIT_S
        while not self.seen.evaluate(expression):
            assert time.monotonic() < ended, f"not within {WAIT_S} s: {expression}; {self.text('alert-text')}"
            time.sleep(0.05)

    def text(self, identifier: str) -> str:
        return str(self.seen.evaluate(f"document.getElementById('{identifier}').textContent"))

    def after_images(self, act: Callable[[], None]) -> None:
        """Do something, and wait until an image has come and nothing more is under way."""
        self.seen.evaluate("document.addEventListener('m2l-image', () => (window.came = true)); window.came = false; 0")
        act()
        self.until("window.came && document.getElementById('state').textContent.endsWith('ms')")

    def click(self, identifier: str) -> None:
        self.seen.evaluate(f"document.getElementById('{identifier}').click()")

    def set(self, identifier: str, value: str, event: str) -> None:
        script = f"const e = document.getElementById('{identifier}'); e.value = {json.dumps(value)}; "
        self.seen.evaluate(f"(() => {{ {script} e.dispatchEvent(new Event('{event}')) }})()")

    def stroke(self, points: list[tuple[float, float]]) -> None:
        """Draw with the mouse; places are fractions of the mask's side."""
        box = "document.getElementById('drawing').getBoundingClientRect().toJSON()"
        left, top, side = (self.seen.evaluate(box)[key] for key in ("x", "y", "width"))
        for place, (x, y) in enumerate([*points, points[-1]]):
            kind = "mousePressed" if place == 0 else "mouseReleased" if place == len(points) else "mouseMoved"
            buttons = 0 if kind == "mouseReleased" else 1
            at = {"x": left + x * side, "y": top + y * side}
            self.seen.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=buttons, clickCount=1, **at)

    def keys(self, *names: str) -> None:
        for name in names:
            for kind in ("keyDown", "keyUp"):
                self.seen.send("Input.dispatchKeyEvent", type=kind, key=name)

    def give(self, name: str, content: bytes) -> None:
        """Choose a file to load."""
        data = base64.b64encode(content).decode()
        self.seen.evaluate(
            f"""(() => {{ const bytes = Uint8Array.from(atob("{data}"), c => c.charCodeAt(0)), all = new DataTransfer();
            all.items.add(new File([bytes], {json.dumps(name)})); const input = document.getElementById('file');
            input.files = all.files; input.dispatchEvent(new Event('change')); }})()"""
        )

    def download(self) -> dict[str, bytes]:
        """The files in the zip that `Download the pair` gives."""
        self.seen.evaluate(
            """window.zip = null; URL.createObjectURL = (blob) => { const reader = new FileReader();
            reader.onload = () => (window.zip = reader.result.split(",")[1]);
            reader.readAsDataURL(blob); return "#"; }; 0"""
        )
        self.click("download")
        self.until("window.zip !== null")
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(self.seen.evaluate("window.zip")))) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def complaints(self) -> list[str]:
        """What the browser complains of, but that it has no GPU."""
        return [problem for problem in self.seen.problems() if "adapter" not in problem]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def site(seen: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of m2l web, below a path of its host."""
    root = tmp_path_factory.mktemp("site")
    write_site(embedded.BUNDLE, root / "below" / "a path", SiteOptions(onnxruntime_web=onnxruntime_web()))
    with static_host(root) as address:
        yield Page(seen, f"{address}/below/a%20path/")


@pytest.fixture
def served(seen: Browser) -> Iterator[tuple[Page, subprocess.Popen[str]]]:
    """The page of m2l serve."""
    for needed in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(needed)
    with m2l_serve() as (address, process):
        yield Page(seen, address), process


def synthesized(m2l: CommandLine, folder: Path, files: dict[str, bytes], *options: str) -> Path:
    """The file that `m2l synth` makes of the mask in a pair, with the options that its record names."""
    record = json.loads(next(content for name, content in files.items() if name.endswith(".json")))
    (folder / "masks").mkdir()
    (folder / record["mask_output"]).write_bytes(files[record["mask_output"]])
    words = shlex.split(record["command"])
    assert words[:4] == ["m2l", "synth", record["mask_output"], "lesions"]
    told = m2l("synth", folder / "masks", folder / "lesions", *words[4:], "--backend", "onnxruntime", *options)
    assert told.code == 0, told
    return max((folder / "lesions").rglob("*.png"))


STROKE = [(0.3, 0.3), (0.45, 0.35), (0.6, 0.5), (0.62, 0.66), (0.5, 0.7)]


def draw_with_seed(page: Page) -> None:
    page.click("clear")
    page.set("radius", "17", "input")
    page.set("name", "läsion 1", "input")
    page.set("seed", "18446744073709551615", "input")
    page.stroke(STROKE)


@pytest.mark.parametrize("choice", [{}, {"hair": "0", "skin_L": "60"}], ids=["by seed", "chosen"])
def test_static_page__gives_the_pixels_of_m2l_synth(
    site: Page, m2l: CommandLine, tmp_path: Path, choice: dict[str, str]
) -> None:
    site.open()
    site.after_images(lambda: draw_with_seed(site))
    if choice:
        radio = f"input[type=radio][name=hair][value='{choice['hair']}']"
        site.after_images(lambda: site.seen.evaluate(f'document.querySelector("{radio}").click()'))
        site.after_images(lambda: site.set("number-skin_L", choice["skin_L"], "change"))
    files = site.download()
    expected = synthesized(m2l, tmp_path, files)
    (name,) = [name for name in files if name.startswith("images/")]
    made, oracle = Image.open(io.BytesIO(files[name])), Image.open(expected)
    limit = next(m for m in open_bundle(embedded.BUNDLE).manifest.models if "onnxruntime" in m.engines).parity
    difference = np.abs(np.asarray(made, np.int16) - np.asarray(oracle, np.int16))
    assert difference.max() <= (limit.accepted_max_level_difference or 0), difference.max()
    assert difference.mean() < 0.05
    for key in ("m2l-seed", "m2l-appearance", "Description", "m2l-bundle-sha256"):
        assert made.info[key] == oracle.info[key]
    assert site.complaints() == []


def test_static_page__asks_no_other_machine_and_sends_nothing(site: Page) -> None:
    site.open()
    site.after_images(lambda: site.stroke(STROKE))
    origin = site.address.partition("/below")[0]
    assert [address for address in site.seen.requests() if not address.startswith((origin, "blob:", "data:"))] == []
    sent = [event for event in site.seen.events if event.get("method") == "Network.requestWillBeSent"]
    assert {event["params"]["request"]["method"] for event in sent} == {"GET"}


def test_static_page__is_checked_against_the_golden_image(site: Page) -> None:
    site.open()
    site.until("/golden image comes out/.test(document.getElementById('engine').textContent)")


def test_static_page__goes_on_where_the_reader_left_it(site: Page) -> None:
    site.open()
    site.after_images(lambda: site.click("clear"))
    site.after_images(lambda: site.stroke(STROKE))
    area = site.text("area")
    site.seen.open(site.address)
    site.until("document.getElementById('veil').hidden")
    assert site.text("area") == area
    site.seen.evaluate("sessionStorage.clear()")


def test_served_page__gives_the_bytes_of_m2l_synth(served: tuple[Page, Any], m2l: CommandLine, tmp_path: Path) -> None:
    page, _ = served
    page.open()
    page.after_images(lambda: draw_with_seed(page))
    files = page.download()
    expected = synthesized(m2l, tmp_path, files, "--threads", "1")
    (name,) = [name for name in files if name.startswith("images/")]
    assert files[name] == expected.read_bytes()
    assert page.complaints() == []


def test_served_page__says_so_when_the_server_is_gone(served: tuple[Page, subprocess.Popen[str]]) -> None:
    page, process = served
    page.open()
    process.terminate()
    process.wait(30)
    page.stroke(STROKE)
    page.until("/does not answer. Your drawing is kept/.test(document.getElementById('alert-text').textContent)")
    assert page.seen.evaluate("!document.getElementById('alert-retry').hidden")
    assert "0.0 %" not in page.text("area")


def test_variations__are_eight_and_can_be_chosen(site: Page) -> None:
    site.open()
    site.click("vary")
    tiles = "document.querySelectorAll('#variations button:not(:disabled)')"
    site.until(f"{tiles}.length === 8")
    looks = f"[...{tiles}].map(b => b.firstChild.toDataURL())"
    assert len(set(site.seen.evaluate(looks))) == 8
    site.seen.evaluate(f"{tiles}[4].click()")
    assert "variation 5" in site.text("state")
    files = site.download()
    assert "images/drawing_sample5.png" in files
    shown = "document.getElementById('result').toDataURL()"
    assert site.seen.evaluate(shown) == site.seen.evaluate(looks)[4]


def test_keyboard__draws_a_shape_and_takes_it_back(site: Page) -> None:
    site.open()
    site.after_images(lambda: site.click("clear"))
    site.seen.evaluate("document.getElementById('drawing').focus()")
    site.after_images(lambda: site.keys("r", "Enter", *["ArrowRight"] * 4, *["ArrowDown"] * 2, "Enter"))
    share = 100 * 33 * 17 / 256**2  # 32 pixels on and 16 down, both ends among them
    assert f"lesion {share:.1f} %" in site.text("area")
    assert site.seen.evaluate("document.querySelector('input[name=tool][value=rectangle]').checked")
    site.after_images(lambda: site.click("undo"))
    assert "lesion 0.0 %" in site.text("area")


def test_compare__uncovers_the_mask(site: Page) -> None:
    site.open()
    site.set("compare", "mask", "change")
    site.set("wipe", "100", "input")
    over = """(() => { const canvas = document.getElementById('over');
        return canvas.hidden ? null : [...canvas.getContext('2d').getImageData(128, 128, 1, 1).data] })()"""
    assert site.seen.evaluate(over) == [255, 255, 255, 255]
    site.set("compare", "none", "change")
    assert site.seen.evaluate(over) is None


def test_fields__say_what_is_wrong(site: Page) -> None:
    site.open()
    site.set("seed", "-1", "input")
    assert "whole number from 0" in site.text("seed-error")
    site.set("seed", "18446744073709551616", "input")
    assert "whole number from 0" in site.text("seed-error")
    site.after_images(lambda: site.set("seed", "5", "input"))
    assert site.text("seed-error") == ""
    site.set("name", "../up", "input")
    assert "file name" in site.text("name-error")


def png_of(levels: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "PNG")
    return content.getvalue()


def test_load__reads_a_mask_of_another_size_as_m2l_synth_does(site: Page, m2l: CommandLine, tmp_path: Path) -> None:
    site.open()
    levels = np.where(np.hypot(*np.mgrid[-300:300, -400:400]) < 180, np.uint8(255), np.uint8(0))
    site.after_images(lambda: site.give("a disc.png", png_of(levels)))
    files = site.download()
    expected = Image.fromarray(levels).resize((256, 256), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files["masks/a disc.png"]))), np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bomb.png", b"bomb", "60,000 × 60,000 pixels"),
        ("text.png", b"this is no picture at all, but text", "no PNG, JPEG"),
        ("cut.png", b"cut", "cannot decode"),
        ("photo.png", b"photo", "looks like a photograph"),
    ],
)
def test_load__says_why_a_file_is_no_mask(site: Page, name: str, content: bytes, words: str) -> None:
    whole = png_of(np.zeros((64, 64), np.uint8))
    photo = png_of(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    given = {b"bomb": png_bomb(), b"cut": whole[:45], b"photo": photo}.get(content, content)
    site.open()
    area = site.text("area")
    site.give(name, given)
    site.until(f"document.getElementById('alert-text').textContent.includes({json.dumps(words)})")
    assert site.text("area") == area


def test_browser_without_simd__gets_words(site: Page) -> None:
    script = "WebAssembly.validate = () => false"
    added = site.seen.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        site.open(has_image=False)
        site.until("document.getElementById('alert-text').textContent.includes('lacks WebAssembly SIMD')")
        assert "m2l serve" in site.text("alert-text")
    finally:
        site.seen.send("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


def test_site_without_its_model__gets_words(site: Page, tmp_path: Path) -> None:
    write_site(embedded.BUNDLE, tmp_path / "site", SiteOptions(onnxruntime_web=onnxruntime_web()))
    next((tmp_path / "site" / "model").glob("*.onnx")).unlink()
    with static_host(tmp_path / "site") as address:
        page = Page(site.seen, f"{address}/")
        page.open(has_image=False)
        page.until("document.getElementById('alert-text').textContent.includes('is missing from this site')")


def test_two_tabs__are_told(site: Page) -> None:
    site.open()
    other = "new BroadcastChannel(`m2l ${location.pathname}`).postMessage({kind: '%s', from: 'another'})"
    site.seen.evaluate(other % "hello")
    site.until("document.getElementById('alert-text').textContent.includes('open in another tab')")
    site.seen.evaluate(other % "bye")
    site.until("document.getElementById('alert').hidden")


@pytest.mark.parametrize(("width", "is_dark"), LOOKS)
def test_page__keeps_its_notice_in_view_and_fits(site: Page, width: int, is_dark: bool) -> None:
    site.open(width, is_dark=is_dark)
    seen = """(() => { scrollTo(0, %s); const b = document.getElementById('notice').getBoundingClientRect();
        return b.top >= 0 && b.bottom <= innerHeight && document.elementFromPoint(b.x + b.width / 2, b.y + 4).id })()"""
    for place in ("0", "500", "document.body.scrollHeight"):
        assert site.seen.evaluate(seen % place) == "notice"
    assert site.seen.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif(axe_core() is None, reason="axe-core is not there: npm install --no-save axe-core")
@pytest.mark.parametrize(("width", "is_dark"), LOOKS)
def test_page__axe_finds_nothing(site: Page, width: int, is_dark: bool) -> None:
    axe = axe_core()
    assert axe is not None
    site.open(width, is_dark=is_dark)
    site.seen.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    site.set("seed", "x", "input")
    site.seen.evaluate(f"{axe.read_text()}; 0")
    found = site.seen.evaluate(
        "axe.run().then(r => r.violations.map(v => `${v.impact} ${v.id}: ${v.nodes[0].html.slice(0, 200)}`))"
    )
    assert found == []
