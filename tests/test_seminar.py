"""The pages for seminars: published scores apart from ours, ours as in the manifest, and short."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(file for file in (ROOT / "docs/seminar").glob("*.md") if file.stem != "index")
MODELS = json.loads((ROOT / "saved_models/manifest.json").read_text())["models"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_gives_our_scores_apart_from_published_ones_and_has_five_questions(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"\S*\w\S*", text)) <= 700
    assert text.count("<details") == text.count("</details>") == 5
    headers = re.findall(r"^\|(.+)\|\n\|-", text, re.M)
    assert [("published" in header, "ours" in header) for header in headers] == [(True, False), (False, True)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_our_scores_are_those_of_the_manifest(page):
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)`.*?([\d.]+ ± [\d.]+) \|", text, re.M)
    printed = re.findall(r"^nbflows evaluate ([\w-]+)\n```\n\nprints `test images: ([\d.]+ ± [\d.]+)", text, re.M)
    assert len(rows) >= 3
    for name, score in rows + printed:
        found = MODELS[name]["test_bits_per_dim"]
        assert found["num_draws"] == 1
        digits = len(score.split()[0]) - 2
        assert score == f"{found['mean']:.{digits}f} ± {found['standard_error']:.{digits}f}", name
