"""Retake the README's pictures, from a demo of its own: `python -m tools.pictures`.

With the address and the password that `make superset` prints: retake the picture of its dashboard.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests import ui

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page, Request

PICTURES = PROJECT_ROOT / "docs" / "pictures"
PATIENCE_MS = ui.PATIENCE_S * 1000
WIDTH = 1280
MARGIN = 16
DESKTOP = {"width": WIDTH, "height": 1230}  # down to the end of the first charts
PHONE = {"width": 390, "height": 844}

# A line of assets from the API to the report; all of them are too many to read at this width.
STORY = (
    "credits_snapshots",
    "model_usage",
    "stg_credits_snapshots",
    "stg_model_usage_days",
    "int_midnights",
    "daily_spend",
    "daily_balance",
    "daily_spend_by_model",
    "int_runway_position",
    "runway_curve",
    "credits_runway",
    "published",
    "report",
    "alerts_sent",
)


def main() -> None:
    """Run the demo, open its UI and its report, and write `docs/pictures/*.png`."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    if sys.argv[1:]:
        superset(sys.argv[1], sys.argv[2], PICTURES / "superset.png")
        return
    with tempfile.TemporaryDirectory() as folder, ui.chromium() as browser:
        print("Running the demo …", flush=True)
        root = ui.demo(Path(folder))
        take_all(browser, root)


def take_all(browser: "Browser", root: Path) -> None:
    with ui.user_interface(root) as address:
        graph(dagster_tab(browser, address), PICTURES / "asset-graph.png")
        answer(dagster_tab(browser, address), PICTURES / "credits-runway.png")
        picture(dagster_tab(browser, address), PICTURES / "credits-runway-picture.png")
    report = root / "data" / "demo" / "report.html"
    report_at(browser, report, DESKTOP, "light", PICTURES / "report-light.png")
    report_at(browser, report, DESKTOP, "dark", PICTURES / "report-dark.png")
    report_at(browser, report, PHONE, "light", PICTURES / "report-phone.png", scale=2)


def dagster_tab(browser: "Browser", address: str) -> "Page":
    """A tab of the Dagster UI of somebody who sees it for the first time."""
    viewport = {"width": WIDTH, "height": 960}
    context = browser.new_context(base_url=address, viewport=viewport, timezone_id="UTC")
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


def graph(page: "Page", file: Path) -> None:
    """The assets of the story, from the API to the report, cropped to the graph itself."""
    from playwright.sync_api import expect

    page.set_viewport_size({"width": WIDTH, "height": 2 * WIDTH})  # the UI fits a graph to the width alone
    page.goto("/asset-groups~" + quote(" or ".join(f'key:"{name}"' for name in STORY), safe=""))
    expect(page.get_by_role("button", name=re.compile("Materialize all"))).to_be_enabled()
    page.get_by_role("button", name=re.compile("Hide navigation")).click()
    page.get_by_role("button", name="panel_show_right", exact=True).click()  # the list of groups
    page.keyboard.press("Alt+e")  # opens the groups
    nodes = page.locator("foreignObject")
    for name in ("model_usage", "credits_runway", "report"):
        expect(nodes.filter(has_text=name).last).to_be_visible()
    page.wait_for_load_state("networkidle")  # the nodes' colours say what is materialized
    nodes.last.element_handle().wait_for_element_state("stable")
    boxes = [box for node in nodes.all() if (box := node.bounding_box())]
    left, top = (min(box[side] for box in boxes) - MARGIN for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    save(page, file, {"x": left, "y": top, "width": right - left, "height": bottom - top})


def answer(page: "Page", file: Path) -> None:
    """The asset page of credits_runway: its columns folded, so that the answer is in sight."""
    from playwright.sync_api import expect

    page.goto("/assets/credits_runway")
    page.get_by_role("button", name=re.compile("Columns")).click()
    expect(page.get_by_text("Credits last until").first).to_be_visible()
    expect(page.get_by_text("Latest check results")).to_be_visible()
    save(page, file)


def picture(page: "Page", file: Path) -> None:
    """What the asset page of credits_runway shows for a click on the metadata "picture"."""
    from playwright.sync_api import expect

    page.goto("/assets/credits_runway")
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="picture", exact=True))
    row.get_by_text("Show Markdown").click()
    drawing = page.get_by_role("dialog").locator("img").first
    expect(drawing).to_be_visible()
    drawing.element_handle().wait_for_element_state("stable")
    box = page.get_by_role("dialog").bounding_box()
    save(page, file, box)


def report_at(
    browser: "Browser",
    report: Path,
    viewport: dict[str, int],
    theme: Literal["light", "dark"],
    file: Path,
    scale: int = 1,
) -> None:
    """The first screen of the report."""
    context = browser.new_context(viewport=viewport, color_scheme=theme, device_scale_factor=scale)
    page = context.new_page()
    page.goto(report.as_uri())
    save(page, file)


def superset(address: str, password: str, file: Path) -> tuple[dict[int, Any], list[str]]:
    """Superset's dashboard with every chart drawn.

    Returns what each chart asked for, by its id, and what charts say went wrong: nothing, normally.
    """
    queries = {}

    def note(request: "Request") -> None:
        if request.method == "POST" and "/api/v1/chart/data" in request.url:
            asked = request.post_data_json
            queries[asked["form_data"].get("slice_id")] = asked

    holder = ".dashboard-component-chart-holder"
    with ui.chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 3300})
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", note)
        page.goto(address)
        page.locator("#username, [name=username]").first.fill("admin")
        page.locator("#password, [name=password]").first.fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        page.goto(f"{address}?standalone=1")
        page.locator(holder).first.wait_for()
        page.wait_for_load_state("networkidle")
        page.wait_for_function(f"!document.querySelector('{holder} :is(.loading, [data-test=loading-indicator])')")
        page.wait_for_timeout(3000)  # the charts glide into place
        wrong = page.locator(".ant-alert-error, [data-test='error-alert'], .ant-empty").all_inner_texts()
        end = max(box["y"] + box["height"] for chart in page.locator(holder).all() if (box := chart.bounding_box()))
        save(page, file, {"x": 0, "y": 0, "width": 1500, "height": end + MARGIN})
    return {chart: query for chart, query in queries.items() if chart}, [text for text in wrong if text.strip()]


def save(page: "Page", file: Path, clip: "FloatRect | None" = None) -> None:
    page.screenshot(path=file, clip=clip)
    page.context.close()
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
