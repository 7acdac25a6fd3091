"""What a person does in a browser: looks at the Dagster UI, materializes and backfills.

One demo and one UI serve the whole module; what each test saw last is kept in `artifacts/`.
"""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from credits_pipeline import clock
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests import ui

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

ARTIFACTS = PROJECT_ROOT / "artifacts"
PATIENCE_MS = ui.PATIENCE_S * 1000
SENSOR = "rebuild_after_manual_changes"
A_RUN = re.compile(r"^run \w{8}$")
RUN_ENDED = re.compile(r"^(Success|Failure|Canceled)$")
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the UI of a checkout in which `make demo` was done. Needs the browser, to say first if there is none."""
    with ui.user_interface(ui.demo(tmp_path_factory.mktemp("checkout"))) as started:
        yield started


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A new visitor's tab of the Dagster UI, photographed when the test is over, whatever its outcome."""
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 1000}, timezone_id="UTC")
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    yield opened
    ARTIFACTS.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    opened.screenshot(path=ARTIFACTS / f"{name}.png")
    context.close()


def metadata(page: Page, key: str) -> Locator:
    """The row of an asset page's metadata table that has this key."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=key, exact=True))


def follow(page: Page, toast: str) -> None:
    """Click "View" in the message that a launch was answered with, before it goes away."""
    page.get_by_role("listitem").filter(has_text=toast).get_by_text("View", exact=True).click()


def test_a_click_on_materialize_answers_when_credits_run_out(page):
    page.goto("/assets/credits_runway")
    page.get_by_role("button", name=re.compile(r"Materialize$")).click()
    follow(page, "Launched run")
    page.wait_for_url("**/runs/*")
    run = page.url.split("/runs/")[1].split("?")[0]
    expect(page.get_by_text(RUN_ENDED).first).to_have_text("Success")

    page.goto("/assets/credits_runway")
    expect(page.locator(f"a[href*='{run}']").first).to_be_visible()  # as the latest materialization
    expect(metadata(page, "answer")).to_contain_text("Credits last until")
    metadata(page, "picture").get_by_text("Show Markdown").click()
    picture = page.get_by_role("dialog").locator("img[src^='data:image/svg+xml']").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300


def test_a_backfill_of_days_is_one_run_and_one_rebuild_follows_by_itself(page):
    last = clock.today() - timedelta(days=8)
    days = f"{last - timedelta(days=4)}...{last}"
    page.goto("/assets/model_usage")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    selection = page.get_by_role("dialog").get_by_role("textbox")
    selection.fill(f"[{days}]")
    selection.press("Tab")
    expect(page.get_by_role("dialog")).to_contain_text("5 partitions")
    page.get_by_role("button", name="Launch backfill").click()
    follow(page, "Created backfill")
    page.wait_for_url("**/runs/b/*")
    expect(page.get_by_text("Succeeded", exact=True)).to_be_visible()
    expect(page.get_by_text(days)).to_be_visible()
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_role("link", name=A_RUN)).to_have_count(1)

    page.goto(f"/locations/credits_pipeline/sensors/{SENSOR}")
    page.get_by_role("button", name="Runs", exact=True).click()
    expect(page.get_by_role("link", name=A_RUN)).to_have_count(1)
    expect(page.get_by_text(RUN_ENDED)).to_have_text("Success")
