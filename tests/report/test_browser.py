"""The page in a browser: it opens from a file, sorts, searches, shows what is asked for, and asks nobody."""

import json
import re
import time

import pytest
from fixtures.browsing import browsing, listening
from fixtures.reported import HOSTILE, N

from alignbench.report.html import page
from alignbench.report.text import visible

TABLE = "#answer table.sortable"


@pytest.fixture(scope="module")
def listener():
    with listening() as one:
        yield one


@pytest.fixture(scope="module")
def browser(tmp_path_factory, listener):
    with browsing(tmp_path_factory.mktemp("profile"), listener) as one:
        yield one


@pytest.fixture(scope="module")
def files(tmp_path_factory, made, hostile, on_two_models):
    folder = tmp_path_factory.mktemp("pages")
    for name, report in (("plain", made), ("hostile", hostile), ("models", on_two_models)):
        (folder / f"{name}.html").write_text(page(report), encoding="utf-8")
    return folder


@pytest.fixture
def run(browser, files):
    """Opens the plain page anew, and gives what runs JavaScript in it."""
    browser.get((files / "plain.html").as_uri())
    return browser.execute_script


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def recipes(run):
    heads = f"{TABLE} > tbody > tr:first-child > th"
    return run(f"return [...document.querySelectorAll('{heads}')].map(e => e.textContent)")


def prompts(run):
    return run("return [...document.querySelectorAll('.texts-cards article .id')].map(e => e.textContent)")


def data(run):
    return json.loads(run("return document.querySelector('.texts-data').textContent"))


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def focus(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).focus()", selector)


def test_it_opens_without_a_complaint(browser, run):
    assert browser.title == "alignbench: 3 recipes under trl-detox-v1"
    assert len(find(browser, "svg.picture")) == 11
    assert browser.get_log("browser") == []
    assert run("return document.compatMode") == "CSS1Compat"


def test_a_heading_sorts_up_and_down(browser, run):
    first = recipes(run)
    assert [one.split()[1] for one in first] == ["ppo_2", "ppo_1", "untrained"]  # the lowest first
    button = find(browser, f"{TABLE} thead th:nth-child(2) button")[0]
    head = find(browser, f"{TABLE} thead th:nth-child(2)")[0]
    button.click()
    assert (recipes(run), head.get_attribute("aria-sort")) == (first, "ascending")
    button.click()
    assert (recipes(run), head.get_attribute("aria-sort")) == (first[::-1], "descending")
    find(browser, f"{TABLE} thead th:first-child button")[0].click()  # by letter
    assert recipes(run) == first
    assert head.get_attribute("aria-sort") is None


def test_what_was_not_measured_comes_last_both_ways(browser, run):
    button = find(browser, f"{TABLE} thead th:nth-child(4) button")[0]  # the baseline has no difference
    for _ in range(2):
        button.click()
        assert recipes(run)[-1].endswith("untrained")


def test_a_verdict_opens_its_reasons_and_closes_them(browser, run):
    button, reasons = find(browser, "td.opens button")[0], find(browser, "tr.reasons")[0]
    assert (button.get_attribute("aria-expanded"), reasons.is_displayed()) == ("false", False)
    button.click()
    assert (button.get_attribute("aria-expanded"), reasons.is_displayed()) == ("true", True)
    for said in ("adjusted p", "detectable difference", "difference at equal length", "Reward hacking along training"):
        assert said in reasons.text
    button.click()
    assert not reasons.is_displayed()


def test_search_finds_texts_and_prompts(browser, run):
    assert find(browser, ".texts-status")[0].text == f"10 of {N} prompts"
    box = find(browser, ".texts-search")[0]
    box.send_keys("PPO_1 says 7")
    assert prompts(run) == ["p7"]
    box.clear()
    box.send_keys("prompt 2")
    assert set(prompts(run)) == {"p2", "p20", "p21", "p22", "p23"}
    box.clear()
    box.send_keys("no such text")
    assert (prompts(run), find(browser, ".texts-status")[0].text) == ([], "0 of 0 prompts")


@pytest.mark.parametrize("order", ["fall", "rise", "harm", "disagreement"])
def test_prompts_are_sorted_by(browser, run, order):
    content = data(run)
    place = content["recipes"].index("ppo_1")
    keys = {
        "fall": lambda base, own: base[0] - own[0],
        "rise": lambda base, own: own[0] - base[0],
        "harm": lambda base, own: own[0],
        "disagreement": lambda base, own: max(own) - min(own),
    }
    key = keys[order]
    expected = sorted(content["prompts"], key=lambda p: -key(p[2][0][1], p[2][place][1]))
    run("const r = document.querySelector('.texts-recipe'); r.value = 'ppo_1'; r.dispatchEvent(new Event('input'))")
    run(f"const r = document.querySelector('.texts-order'); r.value = '{order}'; r.dispatchEvent(new Event('input'))")
    assert prompts(run) == [one[0] for one in expected[:10]]
    find(browser, ".texts-more")[0].click()
    assert prompts(run) == [one[0] for one in expected[:20]]


def test_toxic_texts_are_blurred_until_they_are_asked_for(browser, run):
    content = data(run)
    first = next(one for one in content["prompts"] if one[0] == prompts(run)[0])
    toxic = [max(scores) >= content["threshold"] for _, scores in first[2]]
    card = ".texts-cards article:first-child"
    blurred = run(f"return [...document.querySelectorAll('{card} section .text')].map(e => e.matches('.blurred'))")
    assert blurred == toxic
    assert find(browser, f"{card} > .text.blurred")  # the prompt, whose source is not known to be harmless
    n = len(find(browser, ".text.blurred"))
    find(browser, f"{card} > .text.blurred button")[0].click()
    assert len(find(browser, ".text.blurred")) == n - 1
    assert find(browser, f"{card} > .text")[0].text == first[1]
    find(browser, ".texts-unblur")[0].click()
    assert not find(browser, ".text.blurred")
    find(browser, ".texts-unblur")[0].click()
    assert len(find(browser, ".text.blurred")) == n


def test_the_texts_of_each_base_model_are_searched_by_themselves(browser, files):
    browser.get((files / "models.html").as_uri())
    first, second = find(browser, ".texts-search")
    second.send_keys("small says 7")
    shown = [one.text for one in find(browser, ".texts-status")]
    assert shown == [f"10 of {N} prompts", "1 of 1 prompts"]
    first.send_keys("small says 7")
    assert find(browser, ".texts-status")[0].text == "0 of 0 prompts"
    assert browser.get_log("browser") == []


def test_recipes_are_put_beside_the_baseline_or_left_out(browser, run):
    heads = "return [...document.querySelectorAll('.texts-cards article:first-child h4')].map(e => e.textContent)"
    assert run(heads) == ["untrained", "ppo_2", "ppo_1"]
    find(browser, "input.shown")[0].click()
    assert run(heads) == ["untrained", "ppo_1"]


def test_all_of_it_works_by_the_keyboard(browser, run):
    press(browser, "\ue004")  # tab
    assert run("return document.activeElement.textContent") == "Answer"
    assert run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    focus(browser, f"{TABLE} thead th:nth-child(2) button")
    press(browser, "\ue007", "\ue007")  # enter, twice
    assert recipes(run)[0].endswith("untrained")
    focus(browser, "td.opens button")
    press(browser, " ")
    assert find(browser, "tr.reasons")[0].is_displayed()
    focus(browser, ".texts-search")
    press(browser, "says 3")
    assert prompts(run) == ["p3"]
    focus(browser, ".text.blurred button")
    press(browser, "\ue007")
    assert run("return document.activeElement.textContent") == "prompt 3"  # and not lost with the button


def test_nothing_is_requested(browser, files, listener):
    assert asked_until_now(browser, files, listener) == []  # what leads out ends at the listener
    for name in ("plain", "hostile"):
        browser.get((files / f"{name}.html").as_uri())
        browser.execute_script("document.querySelector('.texts-unblur').click()")
        while (more := find(browser, ".texts-more")[0]).is_displayed():
            more.click()
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert loaded == []
    assert asked_until_now(browser, files, listener) == []


def asked_until_now(browser, files, listener):
    """What the listener was asked for before a picture that a page of its own asks for now."""
    last = files / "last.html"
    last.write_text("<img src='http://example.org/last.png'>")
    browser.get(last.as_uri())
    for _ in range(500):
        if "example.org /last.png" in listener.asked:
            break
        time.sleep(0.01)
    asked = listener.asked[: listener.asked.index("example.org /last.png")]
    listener.asked.clear()
    return asked


def test_the_policy_stops_what_gets_in_all_the_same(browser, run, files, listener):
    """Put into the page as if the template had let it through."""
    run(
        """
        document.body.insertAdjacentHTML("beforeend", '<img src="http://example.org/i.png" onerror="window.a = 1">');
        const script = document.createElement("script");
        script.textContent = "window.b = 1";
        const link = document.createElement("link");
        Object.assign(link, {rel: "stylesheet", href: "http://example.org/l.css"});
        document.head.append(script, link);
        document.body.setAttribute("style", "display: none");
        """
    )
    asked = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://example.org/f').then(() => done('answered'), () => done('refused'))"
    )
    assert asked == "refused"
    assert run("return [window.a, window.b, getComputedStyle(document.body).display]") == [None, None, "block"]
    assert sum("Content Security Policy" in one["message"] for one in browser.get_log("browser")) >= 4
    assert asked_until_now(browser, files, listener) == []


def test_hostile_texts_are_shown_as_texts(browser, files):
    browser.get_log("browser")  # what was said of other pages
    browser.get((files / "hostile.html").as_uri())
    run = browser.execute_script
    run("document.querySelector('.texts-unblur').click()")
    while (more := find(browser, ".texts-more")[0]).is_displayed():
        more.click()
    shown = set(run("return [...document.querySelectorAll('.texts-cards section bdi')].map(e => e.textContent)"))
    assert {visible(text) for text in HOSTILE.values()} <= shown
    assert browser.title == "alignbench: 3 recipes under trl-detox-v1"
    cards = "[...document.querySelectorAll('.texts-cards bdi')]"
    assert run("return document.querySelectorAll('.texts-cards bdi *, article :is(script, img, style)').length") == 0
    assert set(run(f"return {cards}.map(e => getComputedStyle(e).unicodeBidi)")) == {"isolate"}
    assert max(run(f"return {cards}.map(e => e.parentElement.offsetHeight)")) < 600
    assert browser.get_log("browser") == []


def test_texts_can_be_read_on_light_and_dark_ground(browser, run):
    grounds = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        style = "getComputedStyle(document.documentElement).getPropertyValue"
        names = ("ground", "panel", "ink", "muted", "accent", "second")
        ground, panel, *inks = [run(f"return {style}('--{name}')").strip() for name in names]
        assert min(contrast(ink, behind) for ink in inks for behind in (ground, panel)) >= 4.5  # WCAG 2, AA
        assert run("return getComputedStyle(document.querySelector('svg .f-ink')).fill") == rgb(inks[0])
        grounds.add(run("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(grounds) == 2


def parts(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def rgb(colour):
    return f"rgb({', '.join(map(str, parts(colour)))})"


def contrast(one, other):
    """The ratio that WCAG 2 defines."""

    def luminance(colour):
        even = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts(colour)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), even, strict=True))

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_no_width_makes_the_page_itself_scroll_sideways(browser, files, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for name in ("plain", "hostile"):
        browser.get((files / f"{name}.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints_without_controls_and_without_toxic_texts(browser, run):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = "return [...document.querySelectorAll('.text.blurred bdi')].map(e => getComputedStyle(e).visibility)"
    assert set(run(hidden)) == {"hidden"}
    assert not find(browser, ".controls")[0].is_displayed()
    size = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # of A4, less its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    widths = run("return [...document.querySelectorAll('main > section > .wide > table')].map(e => e.offsetWidth)")
    assert max(widths) <= 700
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.print_page()
    assert len(printed) > 50_000  # as base64
    assert re.match("JVBERi0", printed)  # %PDF-
