"""The page of examples/explore.py, in a real browser, used as a person would."""

from support import data
from support.errors import UserError

import layers
import nice
from examples import explore

import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("browser")

try:
    from playwright.sync_api import sync_playwright

    BROWSER = shutil.which("chromium")
    missing = None if BROWSER else "the page was not tested: there is no chromium"
except ImportError:
    missing = "the page was not tested: pip install playwright"
if missing and os.environ.get("CI"):
    raise RuntimeError(missing)
if missing:
    pytest.skip(missing, allow_module_level=True)


class Page:
    """A page that is open in a browser, and what it asked for and complained of."""

    def __init__(self, page, path):
        self.page = page
        self.requests = []
        self.complaints = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.set_default_timeout(90_000)  # milliseconds: the machine may be busy
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        self.wait()

    def wait(self):
        """Wait until the page has nothing more to compute."""
        busy = "frameAsked || running.size + waiting.size > 0"
        end = time.monotonic() + 90
        while self.page.evaluate(busy):
            assert time.monotonic() < end
            time.sleep(0.02)

    def picture(self, selector):
        """What a canvas shows, or all canvases within an element: a text."""
        self.wait()
        script = """selector => [...document.querySelectorAll(selector)]
                                .map(canvas => canvas.toDataURL()).join()"""
        return self.page.evaluate(script, selector)

    def text(self, selector):
        self.wait()
        return self.page.inner_text(selector)

    def click(self, selector):
        self.page.click(selector)

    def press(self, selector, key, times=1):
        self.page.focus(selector)
        for _ in range(times):
            self.page.keyboard.press(key)

    def drag(self, selector, *points):
        """Press at the first point, go to the others, release: shares of an element."""
        element = self.page.locator(selector)
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        places = [
            (box["x"] + x * box["width"], box["y"] + y * box["height"])
            for x, y in points
        ]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def check_quiet(self):
        outside = [url for url in self.requests if not url.startswith("data:")]
        assert len(outside) == 1 and outside[0].startswith("file:"), outside
        assert not self.complaints


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        options = {"executable_path": BROWSER, "args": ["--no-sandbox"]}
        browser = driver.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model(trained):
    return nice.load(trained / "nice.keras")


@pytest.fixture(scope="module")
def page(browser, trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explore.html"
    options = ["--output", path, "--note", "No more than <b>a test</b>."]
    assert explore.main(["--model", trained / "nice.keras", *options]) == 0
    page = Page(browser.new_page(), path)
    yield page
    page.check_quiet()  # after all that the tests did


def in_page(page, function, rows):
    """Call a function of the flow in the page for each row of an array."""
    script = f"""row => {{
        const result = {function}(flow, Float32Array.from(row));
        return typeof result === "number" ? result : Array.from(result);
    }}"""
    return np.array([page.page.evaluate(script, row.tolist()) for row in rows])


def test_it_computes_what_keras_computes(page, model, digits):
    _, (images, _) = data.load(digits)
    noise = np.random.default_rng(0).random((4, 28, 28))
    images = (images[:4] + noise).astype("float32")
    rows = images.reshape(4, -1)
    z = model.encode(images)
    found = in_page(page, "encode", rows)
    assert np.max(abs(found - z) * model.sigma * model.levels) < 0.5  # grey levels
    drawn = model.sample_codes(4)
    decoded = in_page(page, "decode", drawn)
    assert np.max(abs(decoded - model.decode(drawn).reshape(4, -1))) < 0.5
    assert np.max(abs(in_page(page, "decode", found) - rows)) < 0.5
    nats = in_page(page, "logLikelihood", rows)
    assert np.max(abs(nats - model.log_likelihood(images, noise=0))) < 0.5


def test_the_first_grid_is_there_before_the_weights(page, model):
    """Keras decoded it; the page decodes the same codes again."""
    script = """() => cells.map((cell, i) => {
        const first = row(bytesOf(model.first.images), i);
        return Math.max(...cell.image.map((value, k) => Math.abs(value - first[k])));
    })"""
    page.wait()
    assert max(page.page.evaluate(script)) <= 1  # where rounding falls otherwise


def test_it_says_what_it_holds_and_draws(page):
    assert page.text("#note") == "No more than <b>a test</b>."
    assert "2 couplings of 1 × 32 units" in page.text("#status")
    assert page.page.locator("#sources .chip").all_inner_texts() == [
        "the prior",
        "the mixture",
    ]
    assert page.page.is_checked("#sources .chip:has-text('mixture') input")


def test_a_file_holds_the_pixels_that_nice_gives(page):
    values = np.linspace(-3.3, 259.1, 784)
    script = "row => Array.from(toPixels(Float32Array.from(row)))"
    pixels = page.page.evaluate(script, values.tolist())
    assert pixels == nice.to_pixels(values, noise=1.0).tolist()


def test_new_images(page):
    grid = "#grid canvas"
    seen = [page.picture(grid)]
    page.click("#labels .chip:has-text('7')")
    seen.append(page.picture(grid))
    assert page.page.evaluate(
        "cells.every(({draw}) => mixture.labels[mixture.kind[draw.mean]] === 7)"
    )
    page.click("#redraw")
    seen.append(page.picture(grid))
    numbers = page.page.evaluate("cells[3].draw.numbers[0]")
    page.press("#temperature", "ArrowRight", times=3)
    assert page.text("#temperatureValue") == "0.83"
    seen.append(page.picture(grid))
    assert page.page.evaluate("cells[3].draw.numbers[0]") == numbers
    page.drag("#temperature", (0.5, 0.5), (0.02, 0.5))
    assert float(page.text("#temperatureValue")) < 0.1
    seen.append(page.picture(grid))
    page.click("#sources .chip:has-text('prior')")
    seen.append(page.picture(grid))
    assert page.page.locator("#labels input").first.is_disabled()
    assert len(set(seen)) == len(seen)
    page.click("#sources .chip:has-text('mixture')")
    page.drag("#temperature", (0.02, 0.5), (0.5, 0.5))
    page.click("#labels .chip:has-text('any')")


def test_a_choice(page):
    before = page.picture("#state"), page.picture("#axes canvas")
    page.click(".cell:nth-child(13)")
    chosen = page.picture("#grid .cell:nth-child(13) canvas")
    assert page.picture("#state") == chosen == page.picture("#moved")
    assert page.picture("#axes canvas") != before[1]
    page.press(".cell:nth-child(13) input", "ArrowDown")
    assert page.picture("#state") == page.picture("#grid .cell:nth-child(18) canvas")


def test_through_the_flow(page):
    page.click("#stages button:first-child")
    assert page.text("#stepName") == "The code"
    code = page.picture("#state")
    page.press("#way", "ArrowRight", times=5)
    assert page.text("#stepName") == "The scaling, undone"
    assert page.picture("#state") != code
    page.press("#way", "End")
    assert page.text("#stepName") == "Coupling 1, undone"
    assert "eq. 7" in page.text("#stepEquation")
    image = page.picture("#state")
    page.drag("#way", (0.98, 0.5), (0.6, 0.5))
    assert page.text("#stepName") == "Coupling 2, undone"
    assert page.picture("#state") != image


def test_along_the_axes(page):
    start = page.picture("#moved"), page.text("#movedNats .said")
    page.drag("#axes .axis:nth-child(2) input", (0.5, 0.5), (0.98, 0.5))
    page.press("#axes .axis:nth-child(5) input", "Home")
    assert page.text("#axes .axis:nth-child(5) output") == "−3.0"
    assert page.picture("#moved") != start[0]
    assert page.text("#movedNats .said") != start[1]
    page.click("#back")
    assert (page.picture("#moved"), page.text("#movedNats .said")) == start


def test_a_digit_of_ones_own(page):
    assert page.page.is_visible("#padHint")
    page.drag("#pad", (0.3, 0.2), (0.7, 0.2), (0.4, 0.8))  # a 7
    one = page.picture("#ownImage"), page.text("#ownNats .said")
    assert page.page.is_hidden("#padHint")
    assert "off by at most 0.0" in page.text("#ownBackName")
    assert "nearest component" in page.text("#ownNearestName")
    image = np.array(page.page.evaluate("Array.from(own.image)")).reshape(28, 28)
    rows, columns = np.nonzero(image > 0)
    assert 18 <= np.ptp(rows) + 1 <= 22 and np.ptp(columns) + 1 <= 22
    y, x = np.mgrid[:28, :28] + 0.5
    centre = np.sum(image * y) / image.sum(), np.sum(image * x) / image.sum()
    assert np.allclose(centre, 14, atol=0.3)
    page.drag("#pad", (0.4, 0.5), (0.7, 0.5))
    assert page.picture("#ownImage") != one[0]
    assert page.text("#ownNats .said") != one[1]
    page.click("#undo")
    assert (page.picture("#ownImage"), page.text("#ownNats .said")) == one
    page.click("#take")
    assert page.picture("#moved") == page.picture("#ownBack")
    assert page.page.locator("#grid input:checked").count() == 0
    page.click("#clear")
    assert page.picture("#ownImage") != one[0]
    page.click("#tests button:nth-child(3)")
    assert page.text("#ownImageName") == "a test image"


def test_between_two(page):
    middle = page.picture("#mixedCodes"), page.picture("#mixedImages")
    page.drag("#mix", (0.5, 0.5), (0.8, 0.5))
    page.press("#mix", "ArrowRight")
    moved = page.picture("#mixedCodes"), page.picture("#mixedImages")
    assert middle[0] != moved[0] and middle[1] != moved[1]
    strip = page.picture("#codesStrip canvas")
    page.click("#setSecond")
    assert page.picture("#codesStrip canvas") != strip
    assert page.picture("#codesStrip canvas:last-child") == page.picture("#moved")
    page.click("#setFirst")
    assert page.picture("#codesStrip canvas:first-child") == page.picture("#moved")


def test_other_models(browser, tmp_path):
    """Colours, no mixture, a logistic prior, no noise: the page leaves out drawing."""
    keras.utils.set_random_seed(0)
    model = nice.build_encoder(
        (6, 4, 3), 3, 1, 8, "linear", prior="logistic", levels=255, noise=0.0
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), "uint8")
    path = tmp_path / "explore.html"
    path.write_text(explore.make_page(model, images), "utf-8")
    page = Page(browser.new_page(), path)
    rows = images[:2].reshape(2, -1).astype("float32")
    nats = in_page(page, "logLikelihood", rows)
    assert np.allclose(nats, model.log_likelihood(images[:2]), atol=0.5)
    assert page.page.is_hidden("#pad") and page.page.is_hidden("#labels")
    assert page.text("#sourceText") == "The prior is the density that was trained."
    assert "Drawing by hand is left out" in page.text("#ownText")
    grid = page.picture("#grid canvas")
    page.click("#redraw")
    assert page.picture("#grid canvas") != grid
    page.press("#axes .axis:nth-child(1) input", "End")
    assert page.picture("#moved") != page.picture("#state")
    page.click("#tests button:nth-child(2)")
    page.check_quiet()


FORM = """() => {
    const layers = model.steps.flatMap(({m}) => m ?? []);
    return [model, model.first, model.mixture, ...model.steps, ...layers]
        .map((part) => Object.entries(part)
            .map(([key, value]) => `${key}: ${value.constructor.name}`).sort().join());
}"""


def test_the_page_of_the_repository(browser, page, digits):
    """It works, and its data have the form that today's program writes."""
    path = Path(explore.__file__).parent.parent / "docs" / "explore.html"
    assert path.stat().st_size <= 10_000_000
    ready = Page(browser.new_page(), path)
    assert set(ready.page.evaluate(FORM)) == set(page.page.evaluate(FORM))
    _, (images, _) = data.load(digits)
    rows = images[:9].reshape(9, -1) + np.random.default_rng(0).random((9, 784))
    codes = in_page(ready, "encode", rows)
    np.testing.assert_allclose(in_page(ready, "decode", codes), rows, atol=0.5)
    nats = in_page(ready, "logLikelihood", rows)
    assert 1000 < np.median(nats) < 2000
    grid = ready.picture("#grid canvas")
    ready.click("#sources .chip:has-text('prior')")
    assert ready.picture("#grid canvas") != grid
    ready.check_quiet()


@keras.saving.register_keras_serializable("tests")
class Negation(layers.FlowLayer):
    def call(self, x):
        return -x, keras.ops.zeros_like(x[:, 0])

    def inverse(self, y):
        return -y


def test_a_step_that_the_page_does_not_know():
    model = nice.Flow((2, 2), [Negation()])
    with pytest.raises(UserError, match="^Negation: the page knows"):
        explore.make_page(model, np.zeros((3, 2, 2), "uint8"))
