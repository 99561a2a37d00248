"""The report is a single file that a browser opens without network access."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.rendering.renderer import render_person
from shared.datasets.pairs import PairSet
from shared.evaluation.groups import inequity
from shared.evaluation.measure import Measurement, measure
from shared.evaluation.report.page import write_report
from shared.evaluation.results import GroupComparison, GroupRate, GroupRates
from shared.model.operating_curve import Evidence, Rate
from tests.shared.evaluation.sets import plane_set

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
# Neither the page nor the browser itself can fetch anything.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


def two_versions() -> tuple[PairSet, Measurement, Measurement]:
    """Pairs with errors of both kinds, some of them fixed and some new in the new model."""
    genuine = np.arange(240) < 120
    rng = np.random.default_rng(4)
    before = rng.normal(np.where(genuine, 0.5, 0.1), 0.15).clip(-0.99, 0.99)
    after = (before + rng.normal(0, 0.08, 240)).clip(-0.99, 0.99)
    magnitudes = rng.uniform(15, 28, 480).tolist()
    pair_set, old = plane_set(before.tolist(), genuine.tolist(), magnitudes)
    _, new = plane_set(after.tolist(), genuine.tolist(), magnitudes)
    return (
        pair_set,
        measure("iresnet18-0ld", old, pair_set, 0.3),
        measure("iresnet18-<new>", new, pair_set, 0.3),
    )


def crop(image: int) -> np.ndarray:
    return render_person(image // 2, image % 2)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    pair_set, old, new = two_versions()
    write_report(path, pair_set, new, crop, old)
    return path


class Links(HTMLParser):
    """Collects all URLs that a browser would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "base")
        wanted = ("src", "href", "xlink:href", "srcset", "action")
        self.found += [value or "" for name, value in attrs if name in wanted]


def test_nothing_is_fetched_from_anywhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = Links()
    links.feed(text)
    assert links.found
    outside = [
        link for link in links.found if not link.startswith(("#", "data:image/jpeg;base64,"))
    ]
    assert outside == []
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert re.findall(r"https?:", without_names) == []
    assert re.findall(r"url\((?!#)", without_names) == []
    assert "@import" not in text


def test_the_figures_are_on_it_and_names_are_escaped(page: Path) -> None:
    _, _, new = two_versions()
    text = page.read_text("utf-8")
    figures = new.evaluation
    for words in (
        f"{100 * figures.accuracy:.2f} %",
        f"{figures.auc:.4f}",
        "too few impostor pairs: 120",
        "iresnet18-&lt;new&gt;",
        "Against iresnet18-0ld",
        "McNemar",
    ):
        assert words in text
    assert "<new>" not in text


def test_one_class_makes_a_page_too(tmp_path: Path) -> None:
    pair_set, embedded = plane_set([0.9, 0.2], [True, True])
    write_report(tmp_path / "r.html", pair_set, measure("m", embedded, pair_set, 0.4), crop)
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "needs genuine and impostor pairs" in text
    assert text.count("<figure>") == 2


def test_groups_are_listed_and_drawn(tmp_path: Path) -> None:
    pair_set, old, new = two_versions()

    def grouped(measured: Measurement, fnmr: float) -> Measurement:
        rates = tuple(
            GroupRates(
                name=name,
                fnmr=group_rate(value, people),
                fmr=GroupRate(rate=None, evidence=Evidence(pairs=0, people=0), enough=False),
            )
            for name, value, people in (("a $x$ <b>", fnmr, 40), ("c", 0.01, 4))
        )
        found = inequity({rate.name: rate.fnmr for rate in rates})
        groups = GroupComparison(
            threshold=0.3, groups=rates, fnmr_inequity=found, fmr_inequity=None
        )
        return replace(measured, groups=groups)

    write_report(tmp_path / "r.html", pair_set, grouped(new, 0.04), crop, grouped(old, 0.05))
    text = (tmp_path / "r.html").read_text("utf-8")
    for words in (
        "By group",
        "<td>a $x$ &lt;b&gt;</td><td>FNMR</td><td>4 %</td>",
        "4 people, too few to compare",
        "needs errors, and two groups with enough people",
    ):
        assert words in text
    assert "By group" not in page_without_groups(tmp_path)
    drawn = re.findall(r"<svg.*?</svg>", text[text.index("By group") :], re.DOTALL)
    assert [name for plot in drawn for name in ("FNMR", "FMR") if f">{name}<" in plot] == [
        "FNMR",
        "FMR",
    ]
    # One mark and an interval for each group of each version that was measured.
    assert "a $x$ &lt;b&gt;" in drawn[0]


def group_rate(value: float, people: int) -> GroupRate:
    return GroupRate(
        rate=Rate(value=value, low=value / 2, high=2 * value),
        evidence=Evidence(pairs=10 * people, people=people),
        enough=people >= 10,
    )


def page_without_groups(folder: Path) -> str:
    pair_set, _, new = two_versions()
    write_report(folder / "plain.html", pair_set, new, crop)
    return (folder / "plain.html").read_text("utf-8")


def browse(page: Path, profile: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@needs_browser
def test_a_browser_sorts_the_pairs_at_a_click(page: Path, tmp_path: Path) -> None:
    clicks = """<script>
      const click = key => document.querySelector(`#false-negatives [data-key=${key}]`).click();
      const order = key => [...document.querySelectorAll("#false-negatives .pair")]
        .map(pair => pair.dataset[key]).join(" ");
      const seen = [order("rank")];
      click("similarity"); seen.push(order("similarity"));
      click("similarity"); seen.push(order("similarity"));
      click("magnitude"); seen.push(order("magnitude"));
      click("rank"); seen.push(order("rank"));
      const output = document.body.appendChild(document.createElement("output"));
      output.textContent = seen.join("\\n");
    </script></body>"""
    copy = tmp_path / "clicked.html"
    copy.write_text(page.read_text("utf-8").replace("</body>", clicks), "utf-8")
    seen = re.search(
        r"<output>(.*?)</output>", browse(copy, tmp_path / "p", "--dump-dom"), re.DOTALL
    )
    assert seen is not None
    first, rising, falling, magnitude, back = (
        [float(value) for value in line.split()] for line in seen.group(1).splitlines()
    )
    assert len(first) > 2
    assert first == back == sorted(first)
    assert rising == sorted(rising)
    assert falling == rising[::-1] != rising
    assert magnitude == sorted(magnitude)


@needs_browser
@pytest.mark.slow
def test_a_browser_paints_it(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "screenshot.png"
    browse(page, tmp_path / "p", f"--screenshot={picture}", "--window-size=1280,2000")
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    assert pixels.shape == (2000, 1280, 3)
    # Plots in green and red, and faces; a page that failed to load is all grey.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2000
