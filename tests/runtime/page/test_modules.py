"""The page's modules in node, against what Python, NumPy and Pillow compute; and eslint, where npm has brought it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from png_bomb import png_bomb

from m2l_runtime.bundle import embedded, open_bundle
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.conditioning.conditions import AppearanceChoice, ExtraInputs, item_seed
from m2l_runtime.conditioning.orientation import draw_orientation, orient, orient_back
from m2l_runtime.conditioning.random import random_bytes
from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import parse_mask
from m2l_runtime.page import page_config
from m2l_runtime.page.files import STATIC
from m2l_runtime.page.site import _appearances

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[3]
NODE = shutil.which("node")
ESLINT = Path(os.environ.get("M2L_ESLINT", ROOT / "node_modules" / ".bin" / "eslint"))


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def blake2b_cases() -> list[Any]:
    messages = [bytes(place % 251 for place in range(size)) for size in (0, 1, 127, 128, 129, 256, 300)]
    return [[list(message), hashlib.blake2b(message, digest_size=16).hexdigest()] for message in messages]


def choices(bundle: Bundle, rng: np.random.Generator) -> list[dict[str, float]]:
    """Choices of none to thirteen numbers, a third of them with an angle of the skin."""
    table, names = bundle.read_appearances(), bundle.manifest.appearance.names  # type: ignore[union-attr]
    made = []
    for count in range(60):
        chosen = rng.choice(len(names), int(rng.integers(0, 14)), replace=False)
        choice = {names[i]: round(float(rng.uniform(table[:, i].min(), table[:, i].max())), 2) for i in chosen}
        if count % 3 == 0:
            choice.pop("skin_L", None), choice.pop("skin_b", None)
            choice["ita"] = round(float(rng.uniform(-60, 80)), 1)
        made.append(choice)
    return made


def appearance_cases() -> dict[str, Any]:
    bundle, rng = open_bundle(embedded.BUNDLE), np.random.default_rng(0)
    about, content = _appearances(bundle)
    config, rows = page_config(bundle)["appearance"], []
    for choice in choices(bundle, rng):
        sampler = ExtraInputs(bundle).sampler_for(AppearanceChoice.from_values(choice))
        seed = int(rng.integers(0, 2**63))
        rows.append([str(seed), choice, sampler.sample(seed).tolist()])
    return {"appearance": config, "table": {"about": about, "content": base64_of(content)}, "rows": rows}


def orientation_cases() -> list[Any]:
    """Seeds and sizes; the orientation drawn, a mask turned by it, and an image turned back."""
    rng, cases = np.random.default_rng(4), []
    for seed in (*range(24), 2**64 - 1):
        for height, width in ((6, 6), (4, 7)):
            number = draw_orientation(seed, (height, width))
            mask, image = rng.integers(0, 256, (1, height, width)), rng.integers(0, 256, (1, height, width, 3))
            turned, back = orient(mask, [number]), orient_back(image, [number])
            arrays = [one.ravel().tolist() for one in (mask, turned, image, back)]
            cases.append([str(seed), [height, width], number, *arrays])
    return cases


def resize_cases() -> list[Any]:
    rng, cases = np.random.default_rng(1), []
    sizes = [((600, 450), (256, 256)), ((100, 80), (256, 256)), ((256, 300), (256, 256)), ((31, 33), (64, 48))]
    for start, end in sizes:
        levels = rng.integers(0, 256, start[::-1], np.uint8)
        resized = np.asarray(Image.fromarray(levels).resize(end, Image.Resampling.BICUBIC))
        cases.append(
            {
                "from": start,
                "to": end,
                "levels": base64_of(levels.tobytes()),
                "expected": base64_of(resized.tobytes()),
            }
        )
    return cases


def picture_cases() -> list[Any]:
    picture, cases = Image.new("L", (123, 45)), []
    for kind, options in (("PNG", {}), ("JPEG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": 1})):
        content = io.BytesIO()
        picture.save(content, kind, **options)
        cases.append([f"{kind} {options}", base64_of(content.getvalue()), [123, 45]])
    return cases


def mask_cases() -> list[Any]:
    """Pictures, and the mask that the runtime reads in each; None where it refuses."""
    rng, cases = np.random.default_rng(2), []
    disc = (np.hypot(*np.mgrid[-20:20, -20:20]) < 12).astype(np.uint8)
    soft = np.asarray(Image.fromarray(disc * 255).resize((60, 60), Image.Resampling.BICUBIC))
    pictures = {
        "0 and 255": disc * 255,
        "0 and 1": disc,
        "dark and darker": disc * 9 + 30,
        "soft edges": soft,
        "black": disc * 0,
        "white": disc * 0 + 255,
        "red on black": np.stack([disc * 200, disc * 0, disc * 0], -1),
        "photograph": rng.integers(0, 256, (40, 40), np.uint8),
        "colored": rng.integers(0, 2, (40, 40, 3), np.uint8) * 255,
    }
    for name, levels in pictures.items():
        content = io.BytesIO()
        Image.fromarray(levels).save(content, "PNG")
        try:
            expected = base64_of(parse_mask(content.getvalue(), levels.shape[:2]).mask.tobytes())
        except MaskFileError:
            expected = None
        rgba = np.asarray(Image.fromarray(levels).convert("RGBA")).tobytes()
        cases.append({"name": name, "rgba": base64_of(rgba), "expected": expected})
    return cases


def golden() -> dict[str, Any]:
    seeds = [
        (seed, name, sample) for seed in (0, 1, 2**64 - 1) for name in ("drawing", "a/b", "läsion") for sample in (1, 8)
    ]
    bytes_of = [(7, 100, "noise"), (2**64 - 1, 27328, "noise"), (9, 33, "dropout_bits")]
    return {
        "blake2b": blake2b_cases(),
        "seeds": [[str(seed), name, sample, str(item_seed(seed, name, sample))] for seed, name, sample in seeds],
        "bytes": [
            [str(seed), size, role, hashlib.sha256(random_bytes(seed, size, role).tobytes()).hexdigest()]
            for seed, size, role in bytes_of
        ],
        **appearance_cases(),
        "orientations": orientation_cases(),
        "resize": resize_cases(),
        "pictures": picture_cases(),
        "masks": mask_cases(),
        "bomb": base64_of(png_bomb()),
        "pair": {"size": [6, 8], "config": page_config(open_bundle(embedded.BUNDLE), mode="browser")},
    }


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_modules__compute_what_python_does(tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_text(json.dumps(golden()))
    environment = {
        **os.environ,
        "M2L_STATIC": str(STATIC),
        "M2L_GOLDEN": str(tmp_path / "golden.json"),
        "M2L_OUT": str(tmp_path),
    }
    done = subprocess.run(
        [str(NODE), "--test", str(Path(__file__).with_name("modules.test.mjs"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    check_pair(tmp_path / "pair.zip")


def check_pair(path: Path) -> None:
    """The zip holds a pair that Pillow reads, and a record of it."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["images/läsion_sample2.png", "masks/läsion.png", "läsion_sample2.json"]
        files = [archive.read(name) for name in archive.namelist()]
    record = json.loads(files[2])
    picture, mask = (Image.open(io.BytesIO(content)) for content in files[:2])
    np.testing.assert_array_equal(np.asarray(picture).ravel(), np.arange(6 * 8 * 3) % 251)
    np.testing.assert_array_equal(np.asarray(mask).ravel(), np.where(np.arange(48) % 3, 0, 255))
    assert "not for diagnosis" in picture.info["Description"]
    assert "not for diagnosis" in record["notice"]
    assert picture.info["m2l-seed"] == record["image_seed"] == "77"
    assert record["output_sha256"] == hashlib.sha256(files[0]).hexdigest()
    assert record["mask_output_sha256"] == hashlib.sha256(files[1]).hexdigest()
    assert record["seed"] == str(2**64 - 1)
    assert record["appearance"] == {"lesion_L": 35.123, "hair": 0}
    assert record["command"].endswith("--seed 18446744073709551615 --samples 2 --appearance hair=0")


@pytest.mark.skipif(not ESLINT.exists(), reason="eslint is not there: npm install --no-save eslint")
@pytest.mark.slow
def test_modules__eslint_finds_nothing() -> None:
    done = subprocess.run([str(ESLINT)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
