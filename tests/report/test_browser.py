"""The page as a real browser lays it out; skipped where there is no Chromium."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from regrow.report.page import render_page
from regrow.report.records import RunSummary, Sample

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

# A window can be no narrower than a desktop's least, a frame can.
FRAMES = """<!doctype html><body>{frames}<pre id="told"></pre><script>
addEventListener("load", () => {{
  const told = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    const style = part => {{
      const found = page.querySelector(part);
      return found ? frame.contentWindow.getComputedStyle(found) : {{}};
    }};
    const seen = part => [...page.querySelectorAll(part)].map(e => e.getBoundingClientRect());
    return {{
      width: frame.clientWidth, scroll: root.scrollWidth, clip: root.clientWidth,
      beyond: [...page.body.querySelectorAll("*:not(.unseen)")]
        .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1
          && !e.closest(".models thead"))
        .map(e => e.tagName + "." + e.getAttribute("class")),
      charts: seen("svg").map(box => [box.width, box.height]),
      columns: style(".charts").gridTemplateColumns.split(" ").length,
      row: style(".models tbody tr").display,
      paper: style("body").backgroundColor,
      inks: Object.fromEntries(["body", ".note", ".headline .from", ".headline strong", ".delta",
        "thead th", ".comparison td", ".boxes .out", ".models .worse b", ".lines .worse",
        ".lines .better", ".answers dt", ".answers dd small"]
        .map(part => [part, style(part).color])),
      box: [style(".boxes .in").color, style(".boxes .in").backgroundColor],
      scripts: page.querySelectorAll("script").length,
    }};
  }});
  document.getElementById("told").textContent = JSON.stringify(told);
}});
</script></body>"""


def chromium(arguments: list[str], profile: Path) -> str:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install `chromium` to check the page in a browser")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def long_words(summary: RunSummary) -> RunSummary:
    """What breaks narrow pages: words that nobody breaks."""
    word = "pneumono" * 40
    rows = [row.model_copy(update={"note": word}) for row in summary.models]
    return summary.model_copy(
        update={
            "name": word,
            "command": word,
            "models": tuple(rows),
            "samples": (Sample(prompt=word, answers={row.name: word for row in rows}),),
            "hashes": {word: word},
        }
    )


def measure(
    pages: list[tuple[str, int]], tmp_path: Path, dark: bool = False
) -> list[dict[str, Any]]:
    """What the browser computes for each page in a frame of the given width."""
    frames = "".join(
        f'<iframe srcdoc="{escape(page)}" style="width:{width}px;height:600px;border:0"></iframe>'
        for page, width in pages
    )
    path = tmp_path / "frames.html"
    path.write_text(FRAMES.format(frames=frames), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom = chromium([scheme, "--dump-dom", path.as_uri()], tmp_path / "profile")
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    told: list[dict[str, Any]] = json.loads(unescape(found[1]))
    assert [frame["width"] for frame in told] == [width for _, width in pages]
    return told


def test_nothing_overflows(mixed: RunSummary, openba: RunSummary, tmp_path: Path) -> None:
    pages = [render_page(run) for run in (mixed, openba, long_words(mixed))]
    printed = [page.replace("@media print", "@media all") for page in pages]
    told = measure(
        [(page, width) for width in (390, 1100) for page in pages]
        + [(page, 680) for page in printed],  # the inner width of A4
        tmp_path,
    )
    for frame in told:
        assert frame["scroll"] <= frame["width"]
        assert frame["beyond"] == []
        assert frame["scripts"] == 0
        assert all(width > 250 and height > 20 for width, height in frame["charts"])
    assert [frame["columns"] for frame in told[:6]] == [1, 1, 1, 2, 2, 2]
    assert [frame["row"] for frame in told[:6]] == ["grid"] * 3 + ["table-row"] * 3


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2.1 between two colours as the browser prints them."""

    def luminance(colour: str) -> float:
        shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_in_light_and_dark(mixed: RunSummary, tmp_path: Path, dark: bool) -> None:
    (told,) = measure([(render_page(mixed), 1100)], tmp_path, dark)
    assert (contrast(told["paper"], "rgb(0, 0, 0)") < 2) == dark
    for part, colour in told["inks"].items():
        least = 3.0 if part == ".headline .from" else 4.5  # large text
        assert contrast(colour, told["paper"]) >= least, part
    assert contrast(told["box"][0], told["box"][1]) >= 4.5


def test_it_prints_on_a4(smollm2: RunSummary, tmp_path: Path) -> None:
    path, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    path.write_text(render_page(smollm2), encoding="utf-8")
    chromium([f"--print-to-pdf={pdf}", path.as_uri()], tmp_path / "profile")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf.read_bytes())
    assert 3 <= len(boxes) <= 8
    assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}
