"""The figures: one style, every label readable, one scale for all maps, and a slider that works."""

import base64
import io
import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb
from PIL import Image
from playwright.sync_api import sync_playwright

from lanmsff import plots
from lanmsff.explain import Means

CLASSES = ["sad", "happy", "surprised"]


pytestmark = pytest.mark.usefixtures("book_style")


def faces(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 80, 80), dtype=np.uint8))


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def mean(offset: float = 0.0) -> Means:
    at, middle = np.array([-90.0, 0.0, 90.0]), np.array([0.1, 0.2, 0.3]) + offset
    return Means(at, middle, middle - 0.05, middle + 0.02)


def grid():
    maps = [None, *np.random.default_rng(1).random((5, 64, 64))]
    labels = plots.verdicts(np.array([0, 1]), np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), CLASSES)
    return plots.show_faces(
        faces(6), maps, [*labels, *"abcd"], columns=3, rows=["one", "two"],
        heads=["face", "map", "control"], bar="weight",
    )  # fmt: skip


FIGURES = {
    "faces": grid,
    "curves": lambda: plots.show_curves(
        {"block 2": {"eyes": mean(), "mouth": mean(0.2)}, "block 4": {"mouth": mean()}},
        "yaw in degrees", "share of the map", level=(0.1, "area"),
    ),
    "maps": lambda: plots.show_maps(np.random.rand(5, 8, 8), list("abcde"), bar="value"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_readable_white_and_uncut(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert to_rgb(figure.get_facecolor()) == (1, 1, 1) and figure.get_facecolor()[3] == 1
    assert figure.get_size_inches()[0] <= 8.6  # the width of a page of the book
    width, height = figure.canvas.get_width_height()
    shown = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
    for text in shown:
        assert text.get_fontsize() >= 9, text
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_faces_have_their_rows_heads_labels_and_one_bar():
    figure = grid()
    assert len(figure.axes) == 7  # six faces and one color bar
    said = texts(figure)
    for text in ("one", "two", "face", "map", "control", "weight", "✓ sad 0.70", "d"):
        assert text in said
    assert "✗ surprised 0.60\nis happy" in said


def test_all_maps_are_drawn_on_the_scale_of_the_bar():
    low, high = np.zeros((8, 8)), np.full((8, 8), 3.0)
    figure = plots.show_faces(faces(3), [low, None, high], limits=(0, 4), bar="weight")
    overlays = [axis.images[1] for axis in figure.axes if len(axis.images) == 2]
    assert len(overlays) == 2 and len(figure.axes[1].images) == 1
    assert all(overlay.get_clim() == (0, 4) for overlay in overlays)
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0, 4)


@pytest.mark.parametrize("values, ends", [
    ((0, 4), "neither"), ((-1e-9, 4 + 1e-9), "neither"), ((-1, 4), "min"), ((0, 5), "max"),
    ((-1, 5), "both"),
])  # fmt: skip
def test_the_bar_has_a_tip_where_values_are_beyond_its_scale(values, ends):
    figure = plots.show_faces(faces(2), [None, np.array([values])], limits=(0, 4), bar="weight")
    tips = figure.axes[-1].patches  # one path for each
    assert figure.axes[1].images[1].get_clim() == (0, 4)
    assert len(tips) == {"neither": 0, "both": 2}.get(ends, 1)
    heights = [tip.get_path().vertices[:, 1].max() for tip in tips]
    assert [height > 1 for height in heights] == [kind == "max" for kind in ("min", "max")
                                                  if ends in (kind, "both")]  # fmt: skip


def test_a_long_label_of_the_bar_fits_beside_one_row():
    heads = ["face", "map"]
    figure = plots.show_faces(
        faces(2), [None, np.eye(4)], heads=heads, size=1.25, bar="each on its own scale"
    )
    figure.canvas.draw()
    box = figure.axes[-1].yaxis.label.get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.canvas.get_width_height()[1]


def test_a_map_hides_nothing_where_it_is_0_and_lies_on_its_own_place():
    image, overlay = np.full((80, 80), 100, np.uint8), np.zeros((4, 4))
    overlay[0, 3] = 1  # top right
    figure = plots.show_faces([image], [overlay])
    pixels = plots.picture(figure)
    rows, columns = np.nonzero(np.all(pixels == 100, axis=2))
    colored = np.ptp(pixels.astype(int), axis=2) > 50
    assert colored.any() and colored.sum() < len(rows) / 10  # a sixteenth of the face
    where = np.argwhere(colored).mean(axis=0)
    assert where[0] < rows.mean() and where[1] > columns.mean()


def test_a_verdict_says_right_and_wrong_by_symbol_and_color():
    probabilities = np.array([[0, 0.9, 0.1], [0.5, 0.3, 0.2]])
    right, wrong = plots.verdicts(np.array([1, 1]), probabilities, CLASSES)
    assert (right.text, right.right) == ("✓ happy 0.90", True)
    assert (wrong.text, wrong.right) == ("✗ sad 0.50\nis happy", False)
    figure = plots.show_faces(faces(3), labels=[right, wrong, "plain"])
    colors = [axis.xaxis.label.get_color() for axis in figure.axes]
    assert colors == [plots.BLUE, plots.DARK_ORANGE, plots.BLACK]


@pytest.mark.parametrize("given, said", [
    ({"maps": [None]}, "1 maps for 3 images"), ({"labels": ["a", "b"]}, "2 labels for 3 images"),
])  # fmt: skip
def test_maps_or_labels_that_are_too_few_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        plots.show_faces(faces(3), **given)


def test_a_curve_looks_the_same_in_every_panel_and_stands_once_in_the_legend():
    figure = FIGURES["curves"]()
    first, second = figure.axes
    lines = [line for axis in (first, second) for line in axis.lines]
    mouths = [line for line in lines if line.get_label() == "mouth"]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in mouths}
    assert len(mouths) == 2 and len(looks) == 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == ["area", "eyes", "mouth"]
    assert first.get_xticks().tolist() == [-90, 0, 90]


def test_many_yaws_are_marked_at_quarter_turns():
    at = np.arange(-90, 91, 10)
    figure = plots.show_curves({"": {"mouth": Means(at, 0 * at, 0 * at, 0 * at)}}, "yaw", "share")
    assert figure.axes[0].get_xticks().tolist() == [-90, -45, 0, 45, 90]


def test_curves_that_come_back_keep_their_look_and_others_take_what_is_left():
    def looks(*names):
        axis = plots.show_curves({"": {name: mean() for name in names}}, "x", "y").axes[0]
        return {line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle())
                for line in axis.lines}  # fmt: skip

    one = looks("random", "Grad-CAM", "new")
    two = looks("newer", "Grad-CAM", "MassAtt, block 2", "random")
    assert one["Grad-CAM"] == two["Grad-CAM"] and one["random"] == two["random"]
    assert len(set(one.values())) == 3 and len(set(two.values())) == 4
    assert looks("own Grad-CAM")["own Grad-CAM"] == one["Grad-CAM"]


def test_a_band_is_the_interval():
    figure = plots.show_curves({"all": {"mouth": mean()}}, "yaw", "share")
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([band.x0, band.x1], [-90, 90])
    np.testing.assert_allclose([band.y0, band.y1], [0.05, 0.32])


NAMES = ["yaw −90°: sad", 'yaw 0°: "happy" & <glad>', "yaw 90°: don't know"]


def player() -> str:
    frames = [np.full((24, 40, 3), level, np.uint8) for level in (0, 120, 240)]
    return plots.Player(frames, NAMES, start=1)._repr_html_()


def test_the_player_carries_its_frames_and_names_and_nothing_from_elsewhere():
    page = BeautifulSoup(player(), "html.parser")
    assert json.loads(page.figure["data-names"]) == NAMES
    assert page.output.text == NAMES[1] and page.input["value"] == "1" and page.input["max"] == "2"
    assert page.img["alt"]
    head, film = page.img["src"].split(",")
    assert head == "data:image/webp;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(film))).convert("L"))
    assert pixels.shape == (72, 40)
    np.testing.assert_allclose(pixels.reshape(3, -1).mean(1), [0, 120, 240], atol=4)
    assert not page.find_all(["script", "link"]) and "http" not in player()


def test_the_player_plays_in_a_browser():
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium found: install chromium with your distribution's packages")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(player())
        slider, said = page.locator("input"), page.locator("output")

        def level() -> float:
            shown = Image.open(io.BytesIO(page.locator("img").screenshot())).convert("L")
            return round(float(np.asarray(shown)[2:-2, 2:-2].mean()), -1)

        assert said.inner_text() == NAMES[1] and level() == 120
        slider.press("ArrowRight")
        assert said.inner_text() == NAMES[2] and level() == 240
        assert slider.get_attribute("aria-valuetext") == NAMES[2]
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('output').value.includes('−90')")
        assert level() == 0
        page.get_by_role("button", name="Pause").click()
        assert page.get_by_role("button", name="Play").is_visible()
        browser.close()
        assert not errors
