"""The page in a real browser: a run appears, its story is read, money is taken away, and the next call is denied."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from langchain_core.messages.ai import UsageMetadata
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool

from langchain_vluna import Gate, GateDenied, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel
from tests.browser.conftest import Shop
from tests.support.bad_days import BAD_DAYS, BadDay, old_lease, set_up, symptom

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.slow, pytest.mark.isolated, pytest.mark.timeout(120)]

FEATURE = "scripted.scripted-1"
USAGE = UsageMetadata(input_tokens=40, output_tokens=9, total_tokens=49)


@tool
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()


def chain(gate: Gate) -> None:
    """A prompt, a model and a tool, as one run of a thread."""
    handler = VlunaCallbackHandler(gate, principal_id="acme")
    model = ScriptedChatModel(responses=["because"], usage=USAGE)
    whole = ChatPromptTemplate.from_template("Why {what}?") | model | (lambda message: lookup.invoke(message.text))
    whole.invoke({"what": "not"}, config={"callbacks": [handler], "metadata": {"thread_id": "thread-7"}})


def denied(gate: Gate) -> str:
    with pytest.raises(GateDenied) as caught:
        chain(gate)
    return str(caught.value.reason)


def open_for_business(shop: Shop) -> None:
    for meter, xusd in ((f"{FEATURE}.tokens.input", 2), (f"{FEATURE}.tokens.output", 8)):
        shop.ledger.price(FEATURE, meter, xusd)
    shop.ledger.price("tool.lookup", "tool.lookup", 100, unit="call")
    shop.ledger.grant("acme", 10_000)


def live(page: Page, kind: str) -> Locator:
    return page.locator(f"tr[data-kind={kind}]")


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def test_a_run_appears_as_it_happens_and_its_story_can_be_read(page: Page, shop: Shop):
    """The empty page says where to point a client; a chain's run then shows up by itself, and leads to its story."""
    from playwright.sync_api import expect

    expect(page.get_by_text("Nothing happened yet")).to_be_visible()
    expect(page.locator("pre")).to_contain_text(f"VLUNA_SERVICE_BASE_URL={shop.url}/mgt/v1")
    open_for_business(shop)
    shop.run(chain)

    expect(live(page, "committed")).to_have_count(2)
    expect(live(page, "committed").filter(has_text=FEATURE)).to_contain_text("49 units, 152 XUSD")
    expect(page.get_by_role("status")).to_have_text("live")
    live(page, "committed").filter(has_text=FEATURE).get_by_role("link").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("Run")
    model, tool_run = page.locator("section.card").all()
    expect(model.locator(".story > li")).to_have_text([re.compile("authorized"), re.compile("49 units for 152 XUSD")])
    expect(model.get_by_role("row").filter(has_text=".tokens.input")).to_contain_text("40")
    expect(tool_run).to_contain_text("1 unit for 100 XUSD")
    model.get_by_text("Labels and ids").click()
    expect(model.get_by_text("thread-7")).to_be_visible()


def test_spend_is_drawn_and_told_in_numbers(page: Page, shop: Shop):
    """The chart has bars where money was spent, and the table under it says the same by feature, model and customer."""
    from playwright.sync_api import expect

    open_for_business(shop)
    shop.run(chain)
    spend = page.locator("section.card").filter(has=page.get_by_role("heading", name="Spend"))
    expect(spend.get_by_role("row").filter(has_text=FEATURE)).to_contain_text("152")
    painted = """canvas => {
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const first = [0x2b, 0x6c, 0xb0];
        let count = 0;
        for (let i = 0; i < pixels.length; i += 4) count += first.every((value, j) => pixels[i + j] === value);
        return count;
    }"""
    assert spend.locator("canvas").evaluate(painted) > 20
    spend.get_by_label("Group spend").select_option("customer")
    expect(spend.get_by_role("row").filter(has_text="acme")).to_contain_text("252")
    spend.get_by_label("Span").select_option("month")
    expect(spend.get_by_role("row").filter(has_text="acme")).to_contain_text("252")


def test_an_empty_wallet_denies_the_next_call(page: Page, shop: Shop):
    """Taking a balance back denies the chain, which the page shows; a grant on the page lets it run again."""
    from playwright.sync_api import expect

    open_for_business(shop)
    go(page, "Set up")
    page.get_by_role("button", name="Take back the balance of acme").click()
    expect(page.get_by_role("row").filter(has_text="acme").get_by_role("button")).to_be_disabled()
    assert "funding" == shop.run(denied)
    go(page, "Overview")
    expect(live(page, "denied")).to_contain_text("402 grant balance exhausted")

    go(page, "Set up")
    form = page.get_by_role("form", name="Grant")
    form.get_by_label("Customer").fill("acme")
    form.get_by_label("XUSD").fill("5000")
    form.get_by_label("XUSD").press("Enter")
    expect(page.get_by_role("row").filter(has_text="acme")).to_contain_text("5,000")
    shop.run(chain)
    assert 5000 - 252 == shop.ledger.balance("acme")


def test_a_quota_set_by_keyboard_denies_and_is_lifted(page: Page, shop: Shop):
    """Without a mouse: fill the form, set a quota, see the denial announced, lift the quota."""
    from playwright.sync_api import expect

    open_for_business(shop)
    go(page, "Set up")
    form = page.get_by_role("form", name="Set limit")
    form.get_by_label("What").focus()
    page.keyboard.press("Tab")
    page.keyboard.type(FEATURE)
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("40")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row").filter(has_text="40 units in 24 h")).to_contain_text("0 of 40")
    shop.run(chain)
    assert "quota" == shop.run(denied)
    go(page, "Overview")
    expect(live(page, "denied")).to_contain_text("402 quota limit exhausted")
    assert "quota" == shop.run(denied)
    expect(page.locator("#spoken")).to_have_text("acme denied: quota limit exhausted")
    go(page, "Set up")
    page.get_by_role("button", name=f"Lift the quota of {FEATURE}").press("Enter")
    expect(page.get_by_text("every customer may use as much")).to_be_visible()
    shop.run(chain)


def test_a_price_set_on_the_page_is_charged(page: Page, shop: Shop):
    """What had no price is not charged, and the page says so; after a price is set there, it is."""
    from playwright.sync_api import expect

    open_for_business(shop)
    shop.ledger.price("tool.lookup", "tool.lookup", None)
    shop.run(chain)
    expect(live(page, "quarantined")).to_contain_text("no price for tool.lookup")
    live(page, "quarantined").get_by_role("link", name="Set a price").click()
    expect(page.get_by_role("row").filter(has_text="tool.lookup")).to_contain_text("no price")
    form = page.get_by_role("form", name="Set price")
    expect(form.get_by_label("Feature")).to_have_value("tool.lookup")
    expect(form.get_by_label("XUSD")).to_be_focused()
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row").filter(has_text="tool.lookup")).to_contain_text("7")
    shop.run(chain)
    assert [7] == [rating.amount_xusd for rating in shop.ledger.ratings() if "tool.lookup" in rating.meters][1:]


@pytest.mark.parametrize("day", BAD_DAYS, ids=str)
def test_a_bad_day_made_on_the_page_is_met_and_mended(page: Page, shop: Shop, day: BadDay):
    """What goes wrong after a form or a button of the page is what it says; mended, all is well again."""
    from playwright.sync_api import expect

    set_up(shop.ledger)
    lease = shop.run(old_lease)
    go(page, "Faults")
    if day.button:
        page.get_by_role("button", name=day.button).click()
    else:
        form = page.get_by_role("form", name="Arm a fault")
        form.get_by_label("Fault").select_option(day.kind)
        form.get_by_label("Hits").select_option("authorize")
        form.get_by_label("Seconds").fill("" if day.seconds is None else str(day.seconds))
        form.get_by_role("button", name="Arm").click()
    expect(page.locator("main")).to_contain_text(day.shown)
    assert day.symptom == shop.run(lambda gate: symptom(gate, shop.ledger, lease))
    page.get_by_role("button", name="Mend everything").click()
    expect(page.get_by_text("Nothing is broken.")).to_be_visible()
    page.get_by_role("button", name="Put it right").click()
    expect(page.get_by_text("The gate's clock is right.")).to_be_visible()
    assert "well" == shop.run(lambda gate: symptom(gate, shop.ledger, old_lease(gate)))


def test_a_filter_shows_one_customer_and_is_in_the_address(page: Page, shop: Shop):
    """A filter holds for all parts, comes back with the address, and is cleared."""
    from playwright.sync_api import expect

    open_for_business(shop)
    shop.ledger.grant("globex", 77)
    shop.run(chain)
    expect(live(page, "committed")).to_have_count(2)
    page.get_by_label("Customer").fill("globex")
    page.get_by_label("Customer").press("Enter")
    expect(live(page, "changed")).to_have_count(1)
    expect(live(page, "committed")).to_have_count(0)
    assert page.url.endswith("#/?principal_id=globex")
    page.reload()
    expect(live(page, "changed")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Thread").fill("thread-7")
    page.get_by_role("button", name="Filter").click()
    expect(live(page, "committed")).to_have_count(2)
    expect(live(page, "changed")).to_have_count(0)
    shop.ledger.withdraw("acme")
    shop.run(denied)
    expect(live(page, "denied")).to_have_count(1)


def test_live_entries_wait_while_paused(page: Page, shop: Shop):
    """Pausing holds what comes and says how much; resuming shows it."""
    from playwright.sync_api import expect

    open_for_business(shop)
    expect(live(page, "changed")).to_have_count(4)
    page.get_by_role("button", name="Pause").click()
    shop.ledger.grant("globex", 1)
    page.get_by_role("button", name="Resume (1)").click()
    expect(live(page, "changed")).to_have_count(5)


def test_what_is_not_possible_is_shown_where_it_was_tried(page: Page, shop: Shop):
    """A code that the gate does not take is refused with the rule, in an alert."""
    from playwright.sync_api import expect

    go(page, "Set up")
    form = page.get_by_role("form", name="Set limit")
    form.get_by_label("Feature").fill("not a code")
    form.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("code 'not a code' is not possible")


def test_a_customers_name_is_text_and_nothing_else(page: Page, shop: Shop):
    """A name that looks like markup is shown as it is, and does nothing."""
    from playwright.sync_api import expect

    shop.ledger.grant("<img src=x onerror=alert(1)>", 5)
    expect(live(page, "changed")).to_contain_text("<img src=x onerror=alert(1)>")
    assert 0 == page.locator("main img").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(page: Page, shop: Shop, scheme: str):
    """Every text on every view has a contrast of 4.5 to 1 with what is behind it."""
    open_for_business(shop)
    shop.run(chain)
    shop.ledger.withdraw("acme")
    shop.run(denied)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
    for hash_ in ("#/", "#/setup", "#/faults"):
        page.goto(f"{shop.url}/{hash_}")
        page.wait_for_selector("td")
        assert [] == page.evaluate(FAINT)


FAINT = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest(":disabled, .unseen, .skip, option")) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) >= 4.5) continue;
        faint.push(`${element.tagName} ${element.className}: ${element.textContent.trim().slice(0, 40)}`);
    }
    return faint;
}"""
