"""The page in a real browser: it draws, answers pointer and keys, fits a phone and follows dark mode.

Screenshots for a person to look at are left in the folder that pytest keeps (``--basetemp`` chooses it).
"""

import json
from pathlib import Path

import pytest
from chromium import Page
from sample_run import write_json, write_sample_run
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from headrace.schedule import Op
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.trace import timeline_to_trace

ROW_0 = 28 + 12  # px from the canvas' top into the first row
DARK_GROUND, LIGHT_GROUND = "rgb(17, 19, 21)", "rgb(246, 246, 244)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_run(tmp_path_factory.mktemp("runs") / "small")


def test_title_and_verdict_come_first_with_predicted_against_measured(page: Page, run: Path) -> None:
    page.open(run)
    assert page.text("h1") == "llama · 2 stages · 1f1b"
    verdict = page.text("#verdict")
    assert verdict.startswith("Finished after 300 steps; the loss fell from 8.")
    assert "% more than predicted; ranks idle for" in verdict
    cards = page.js("[...document.querySelectorAll('dt')].map((label) => label.textContent)")
    assert cards == ["Final loss", "Step time", "Idle share", "Throughput", "Fullest rank"]
    assert page.js("document.querySelector('h1').getBoundingClientRect().top < 100")


def test_the_validation_loss_is_a_second_curve_and_a_card(page: Page, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows[99::100]:
        row["validation_loss"] = 9.5 - row["step"] / 100
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.open(run)
    cards = page.js("[...document.querySelectorAll('dl > div')].map((card) => card.textContent)")
    assert cards[1] == "Validation loss6.50at step 300"
    assert page.js("document.querySelectorAll('#loss .beside-dot').length") == 3
    assert page.js("document.querySelectorAll('#throughput .beside-dot').length") == 0
    assert page.text("#loss .readout").endswith(" · held out 6.50 at step 300")
    boxes = page.js(
        "['svg', '.path.beside'].map((name) => { const { top, bottom, left, right } = "
        "document.querySelector('#loss ' + name).getBoundingClientRect(); return [top, bottom, left, right]; })"
    )
    (top, bottom, left, right), (high, low, first, last) = boxes
    assert top < high < low < bottom
    assert left < first < last < right
    page.picture("validation")


def test_hover_names_the_op_with_start_and_length_in_both_timelines(page: Page, run: Path) -> None:
    page.open(run)
    tip = page.hover(35, ROW_0)
    assert tip.startswith("F forward · micro-batch 0 · stage 0 on rank 0")
    assert "Predicted starts at 0, takes 18.0 ms" in tip
    assert "Measured starts at 0, takes" in tip
    assert page.hover(35, 5) == ""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("ranks", "microbatches", "split"), [(2, 8, False), (4, 8, True), (8, 32, False)])
def test_it_draws_in_both_themes(
    page: Page, tmp_path: Path, ranks: int, microbatches: int, split: bool, theme: str
) -> None:
    page.open(write_sample_run(tmp_path / "run", ranks, microbatches, split_backward=split), dark=theme == "dark")
    ground = page.js("getComputedStyle(document.body).backgroundColor")
    assert ground == (DARK_GROUND if theme == "dark" else LIGHT_GROUND)
    # Top left of the first span, clear of its number: the theme's colour of F.
    drawn = page.js("[...arguments[0].getContext('2d').getImageData(31, 31, 1, 1).data]", page.canvas)
    assert drawn == ([58, 128, 196, 255] if theme == "dark" else [42, 104, 168, 255])
    assert page.hover(60, ROW_0)
    page.picture(f"{ranks}x{microbatches}-{theme}")


def test_it_follows_a_change_of_theme_while_it_is_open(page: Page, run: Path) -> None:
    page.open(run)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    drawn = page.js("[...arguments[0].getContext('2d').getImageData(31, 31, 1, 1).data]", page.canvas)
    assert drawn == [58, 128, 196, 255]


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_phone_shows_all_of_it_without_sideways_scrolling_and_a_tap_names_the_op(
    page: Page, tmp_path: Path, ranks: int
) -> None:
    page.open(write_sample_run(tmp_path / "run", ranks, 4 * ranks), width=360)
    assert page.js("document.documentElement.scrollWidth") == page.js("innerWidth") == 360
    touch = [dict(zip("xy", page.at(32, ROW_0), strict=True))]
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": touch})
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.text(".tip").startswith("F forward · micro-batch ")
    tip = page.js("document.querySelector('.tip').getBoundingClientRect().toJSON()")
    assert tip["left"] >= 0
    assert tip["right"] <= 360
    assert page.js("document.documentElement.scrollWidth") == 360
    page.picture(f"{ranks}-phone")


def test_two_fingers_zoom_and_keep_what_lies_between_them(page: Page, run: Path) -> None:
    page.open(run, width=360)
    x, y = page.at(160, ROW_0)

    def touch(kind: str, *places: float) -> None:
        points = [{"x": place, "y": y, "id": finger} for finger, place in enumerate(places)]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", x)
    touch("touchEnd")
    before = page.text(".tip")
    drawn = page.js("arguments[0].toDataURL()", page.canvas)
    touch("touchStart", x - 20, x + 20)
    touch("touchMove", x - 100, x + 100)
    touch("touchEnd")
    assert page.js("arguments[0].toDataURL()", page.canvas) != drawn
    touch("touchStart", x)
    touch("touchEnd")
    assert page.text(".tip") == before != ""


def test_keys_move_between_ops_and_ranks(page: Page, run: Path) -> None:
    page.open(run)
    assert page.keys(Keys.ARROW_RIGHT).startswith("F forward · micro-batch 0 · stage 0 on rank 0")
    assert page.keys(Keys.ARROW_RIGHT).startswith("F forward · micro-batch 1 · stage 0 on rank 0")
    assert page.keys(Keys.ARROW_LEFT).startswith("F forward · micro-batch 0 · stage 0 on rank 0")
    assert page.keys(Keys.ARROW_DOWN).startswith("F forward · micro-batch 0 · stage 1 on rank 1")
    assert page.keys(Keys.ARROW_RIGHT).startswith("B backward · micro-batch 0 · stage 1 on rank 1")
    assert page.keys(Keys.ESCAPE) == ""


def test_buttons_keys_and_wheel_zoom_both_timelines_together(page: Page, run: Path) -> None:
    page.open(run)
    whole = page.hover(35, ROW_0)
    for _ in range(2):
        page.press("Zoom in")
    assert page.hover(35, ROW_0 + 1) != whole
    page.press("Whole step")
    assert page.hover(35, ROW_0) == whole
    page.keys("+", "+")
    assert page.hover(35, ROW_0 + 1) != whole
    page.keys("0")
    assert page.hover(35, ROW_0) == whole
    wheel = "new WheelEvent('wheel', {deltaY: -400, ctrlKey: true, cancelable: true, clientX: arguments[1]})"
    middle = page.js("arguments[0].getBoundingClientRect().x + 500", page.canvas)
    assert page.js(f"arguments[0].dispatchEvent({wheel})", page.canvas, middle) is False
    assert page.hover(35, ROW_0 + 1) != whole
    plain = "new WheelEvent('wheel', {deltaY: -400, cancelable: true})"
    assert page.js(f"arguments[0].dispatchEvent({plain})", page.canvas) is True, "a plain wheel scrolls the page"


def test_dragging_moves_the_zoomed_view(page: Page, run: Path) -> None:
    page.open(run)
    page.keys("+", "+")
    before = page.hover(300, ROW_0)
    ActionChains(page.driver, duration=0).click_and_hold().move_by_offset(-150, 0).release().perform()
    page.hover(300, ROW_0 + 1)
    assert page.text(".tip") != before


def test_the_curve_reads_out_the_step_under_the_pointer_and_the_arrow_keys(page: Page, run: Path) -> None:
    page.open(run)
    curve = page.driver.find_element(By.CSS_SELECTOR, "#loss svg")
    assert page.text("#loss .readout").startswith("step 300 · 3.")
    curve.send_keys(Keys.ARROW_LEFT)
    assert page.text("#loss .readout").startswith("step 299 · ")
    ActionChains(page.driver, duration=0).move_to_element(curve).perform()
    assert int(page.text("#loss .readout").split()[1]) == pytest.approx(150, abs=20)


def test_a_run_that_has_just_begun_says_what_is_not_there_yet(page: Page, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    for name in ("metrics.jsonl", "timeline.json", "summary.json"):
        (run / name).unlink()
    page.open(run)
    assert page.text("#verdict") == "Not finished; no step is recorded. A step should take 575 ms."
    assert "The measured timeline is not in the run folder (timeline.json)." in page.text("#timeline")
    assert "No step is recorded yet (metrics.jsonl)." in page.text("#loss")
    assert "The measured peak is not recorded yet" in page.text("#memory")
    page.picture("begun")


def test_a_failed_run_shows_its_error_as_text_and_the_gap_in_its_loss(page: Page, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", steps=40)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows[30:]:
        row["loss"] = float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = "</script><img src=x onerror=alert(1)> rank 1 died."
    write_json(run / "summary.json", {"status": "failed", "error": error, "measured": None})
    page.open(run)
    assert f"Failed after 40 steps: {error[:-1]}; the loss is not finite at step 40." in page.text("#verdict")
    assert page.text(".cards .value") == "not finite"
    page.picture("failed")


def test_nothing_predicted_leaves_the_measured_half(page: Page, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", steps=3)
    plan = json.loads((run / "plan.json").read_text())
    write_json(run / "plan.json", plan | {"prediction": None, "reasons": []})
    (run / "predicted_timeline.json").unlink()
    page.open(run)
    assert "The plan gives no reasons." in page.text("main")
    assert page.hover(32, ROW_0).startswith("F forward · micro-batch 0 · stage 0 on rank 0Measured starts at 0, takes")


def test_later_stages_of_a_rank_are_drawn_fainter(page: Page, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", steps=3)
    spans = (Span(0, Op("F", 0, 0), 0.0, 1.0), Span(0, Op("F", 2, 0), 1.0, 2.0))
    write_json(run / "predicted_timeline.json", timeline_to_trace(Timeline(1, spans, 0.0, 2.0)))
    page.open(run)
    assert "fainter: the rank's later stages" in page.text("#timeline .legend")
    middle = page.canvas.size["width"] // 2
    row = page.js(
        "[...arguments[0].getContext('2d').getImageData(0, 31, 2 * arguments[1], 1).data]", page.canvas, middle
    )
    first, second = (row[4 * x : 4 * x + 3] for x in (middle - 40, middle + 60))
    assert first == [42, 104, 168]
    # A rank with two stages fades the second by 0.35 towards the white page.
    assert second == [round(value + 0.35 * (255 - value)) for value in first]


def test_sixty_four_ranks_with_thousands_of_spans_stay_readable_by_pointer(page: Page, tmp_path: Path) -> None:
    page.open(write_sample_run(tmp_path / "run", 64, 128, steps=50))
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    for _ in range(8):
        page.press("Zoom in")
    assert " · stage 63 on rank 63" in page.hover(500, 28 + 63 * 8 + 3)
    page.picture("64x128-zoomed")
