"""The figures of numbers: every point, interval and count where it belongs, all of it readable."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from lanmsff import charts
from lanmsff.calibration import calibration
from lanmsff.charts import Estimate, in_percent
from lanmsff.intervals import accuracy_interval

CLASSES = ["neutral", "happiness", "surprise"]
CONFUSION = [[60, 30, 10], [0, 8, 0], [1, 0, 999]]
ROWS = [
    Estimate("paper", 86.96, (85.7, 88.1), "claim", 0.36),
    Estimate("ours", 80.0, (78.0, 82.5), "here", 0.36),
    Estimate("a peer of unknown size", 84.4, None, "peer"),
    Estimate("a peer", 84.9, None, "peer", 21.0),
]


pytestmark = pytest.mark.usefixtures("book_style")


def diagrams():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (400, 3)).astype(np.float32))
    labels = np.where(rng.random(400) < 0.7, logits.argmax(1).numpy(), 0)
    return calibration(logits, labels), calibration(logits / 3, labels)


FIGURES = {
    "intervals": lambda: charts.show_intervals(ROWS, "accuracy (%)", level=85),
    "costs": lambda: charts.show_costs({"parameters": ROWS, "cost": ROWS}, "accuracy (%)"),
    "confusion": lambda: charts.show_confusion(CONFUSION, CLASSES),
    "reliability": lambda: charts.show_reliability(*diagrams()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_readable_white_and_uncut(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert to_rgb(figure.get_facecolor()) == (1, 1, 1)
    assert figure.get_size_inches()[0] <= 8.6  # the width of a page of the book
    width, height = figure.canvas.get_width_height()
    for text in figure.findobj(plt.Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 9, text
    for axis in figure.axes:
        box = axis.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def drawn(axis):
    """Points and intervals of an axis as (xs, ys), in the order in which they were drawn."""
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axis.lines]
    return [line for line in lines if len(line[0]) == 1], [
        line for line in lines if len(line[0]) == 2
    ]


def test_a_share_becomes_percent():
    found = in_percent("a", 0.5, [0.25, 0.75], kind="k", cost=3)
    assert found == Estimate("a", 50, (25, 75), "k", 3)
    assert in_percent("a", -0.5) == Estimate("a", -50, None)


def test_rows_go_down_and_an_interval_is_drawn_where_there_is_one():
    figure = charts.show_intervals(ROWS, "accuracy (%)", digits=2)
    axis = figure.axes[0]
    points, intervals = drawn(axis)
    assert points == [((row.value,), (y,)) for y, row in enumerate(ROWS)]
    assert intervals == [((85.7, 88.1), (0, 0)), ((78.0, 82.5), (1, 1))]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
    assert [label.get_text() for label in axis.get_yticklabels()] == [row.label for row in ROWS]
    said = [text.get_text() for text in axis.texts]
    assert said == ["86.96", "80.00", "84.40", "84.90"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["claim", "here", "peer"]


def test_a_negative_number_has_the_minus_sign_of_the_axis():
    figure = charts.show_intervals([Estimate("less", -1.25, (-2.0, -0.5))], "points", level=0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["−1.2"]
    figure = charts.show_intervals([Estimate("none", -0.01)], "points")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0"]


@pytest.mark.parametrize("value", [-0.2, -0.01, 0.0, 0.3])
def test_no_number_stands_on_the_level(value):
    rows = [Estimate("near", value, (-3, 3)), Estimate("far", 5.0), Estimate("less", -5.0)]
    figure = charts.show_intervals(rows, "points", level=0)
    (axis,) = figure.axes
    figure.canvas.draw()
    line = axis.transData.transform((0, 0))[0]
    near, *others = [text.get_window_extent() for text in axis.texts]
    assert near.x0 > line if value >= 0 else near.x1 < line
    for row, box in zip(rows[1:], others):  # these stand where their points are
        point = axis.transData.transform((row.value, 0))[0]
        assert (box.x0 + box.x1) / 2 == pytest.approx(point, abs=1)


def test_rows_under_one_label_stand_together():
    rows = [Estimate(label, 1.0, (0, 2), kind) for label, kind in ("ax", "ay", "az", "bx", "ax")]
    figure = charts.show_intervals(rows, "x")
    (axis,) = figure.axes
    near = charts.TOGETHER
    heights = [0, near, 2 * near, 2 * near + 1, 2 * near + 2]
    points, _ = drawn(axis)
    assert [y for _, (y,) in points] == pytest.approx(heights)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "a"]
    assert axis.get_yticks() == pytest.approx([near, 2 * near + 1, 2 * near + 2])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(box.overlaps(other) for k, box in enumerate(boxes) for other in boxes[:k])


def test_a_kind_has_one_color_and_one_marker():
    axis = charts.show_intervals(ROWS, "x").axes[0]
    points = [line for line in axis.lines if len(line.get_xdata()) == 1]
    looks = [(point.get_color(), point.get_marker()) for point in points]
    assert looks[2] == looks[3] and len(set(looks)) == 3
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 3


def test_kinds_that_are_named_keep_their_look_where_one_is_missing():
    kinds = ["claim", "here", "peer"]
    whole = charts.show_intervals(ROWS, "x", kinds=kinds)
    part = charts.show_intervals(ROWS[2:], "x", kinds=kinds)
    looks = [(lines[-1].get_color(), lines[-1].get_marker())
             for lines in (whole.axes[0].lines, part.axes[0].lines)]  # fmt: skip
    assert looks[0] == looks[1] and part.legends == []


def test_labels_do_not_cover_each_other_or_the_points():
    close = [Estimate(f"network {k}", 84 + 0.1 * k, None, "peer", 11 + k) for k in range(4)]
    figure = charts.show_costs({"parameters": close + [ROWS[0]]}, "accuracy (%)", size=(5, 4))
    figure.canvas.draw()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    points = axis.transData.transform([(p.cost, p.value) for p in close])
    assert len(boxes) == 5
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert not any(box.contains(*point) for point in points)


def test_one_kind_needs_no_legend_and_a_level_is_a_line():
    figure = charts.show_intervals([Estimate("a", 1.0), Estimate("b", 2.0)], "x", level=0)
    assert figure.legends == []
    lines = figure.axes[0].lines
    assert ([0, 0], [0, 1]) in [(list(x), list(y)) for x, y in (line.get_data() for line in lines)]


def test_costs_are_on_a_log_axis_and_points_without_one_are_left_out():
    figure = charts.show_costs({"millions": ROWS, "again": ROWS[:2]}, "accuracy (%)")
    first, second = figure.axes
    points, intervals = drawn(first)
    assert points == [((0.36,), (86.96,)), ((0.36,), (80.0,)), ((21.0,), (84.9,))]
    assert intervals == [((0.36, 0.36), (85.7, 88.1)), ((0.36, 0.36), (78.0, 82.5))]
    assert first.get_xscale() == "log" and first.get_xlabel() == "millions"
    columns = [line.get_window_extent().x0 for line in first.lines if len(line.get_xdata()) == 2]
    for line in first.lines:
        center = line.get_window_extent()
        assert first.bbox.contains(center.x0, center.y0) and first.bbox.contains(center.x1, center.y1)
    assert columns[1] - columns[0] > 5  # the same cost: side by side, and no interval hidden
    assert {text.get_text() for text in first.texts} == {"paper", "ours", "a peer"}
    assert first.get_ylim() == second.get_ylim()


def test_confusion_is_in_percent_of_the_true_class():
    axis = charts.show_confusion(CONFUSION, CLASSES).axes[0]
    np.testing.assert_allclose(axis.images[0].get_array().sum(axis=1), 1)
    said = {text.get_position(): text.get_text() for text in axis.texts}
    assert said == {(0, 0): "60", (1, 0): "30", (2, 0): "10",
                    (1, 1): "100", (0, 2): "<1", (2, 2): "100"}  # fmt: skip
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["neutral (100)", "happiness (8)", "surprise (1,000)"]
    assert axis.get_ylim() == (2.5, -0.5)  # the first class on top


def test_the_numbers_can_be_read_on_every_blue():
    def light(color):
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    for n in range(1, 100):
        axis = charts.show_confusion([[n, 100 - n], [0, 1]], ["a", "b"]).axes[0]
        image, text = axis.images[0], axis.texts[0]
        ground, letters = (light(c) for c in (image.to_rgba(n / 100)[:3], text.get_color()))
        assert max(ground, letters) / min(ground, letters) > 4.5, n  # as WCAG asks for
        plt.close()


def test_a_class_without_faces_is_an_empty_row():
    axis = charts.show_confusion([[3, 1], [0, 0]], ["a", "b"]).axes[0]
    assert axis.images[0].get_array()[1].tolist() == [0, 0]
    assert all(text.get_position()[1] == 0 for text in axis.texts)


def test_a_confusion_matrix_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 2 classes"):
        charts.show_confusion(CONFUSION, CLASSES[:2])


def test_reliability_shows_the_filled_bins_of_both():
    before, after = diagrams()
    figure = charts.show_reliability(before, after)
    top, bottom = figure.axes
    for line, found in zip(top.lines[1:], (before, after)):
        filled = [k for k, n in enumerate(found["n"]) if n]
        np.testing.assert_allclose(line.get_xdata(), [found["confidence"][k] for k in filled])
        np.testing.assert_allclose(line.get_ydata(), [found["accuracy"][k] for k in filled])
    segments = top.collections[0].get_segments()
    filled = [k for k, n in enumerate(before["n"]) if n]
    for segment, k in zip(segments, filled, strict=True):
        right = round(before["n"][k] * before["accuracy"][k])
        np.testing.assert_allclose(segment[:, 1], accuracy_interval(right, before["n"][k]))
    for stairs, found in zip(bottom.patches, (before, after)):
        shares = stairs.get_data().values
        np.testing.assert_allclose(shares, 100 * np.array(found["n"]) / 400)
    assert not any(drawn.get_clip_on() for drawn in (*top.lines[1:], *bottom.patches))  # at 0 and 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1] == f"as trained: error {100 * before['error']:.1f} points"


def test_three_networks_that_say_the_same_have_the_intervals_of_one():
    def segments(times):
        found = diagrams()
        for diagram in found:
            diagram["n"] = [times * n for n in diagram["n"]]
        top, _ = charts.show_reliability(*found, networks=times).axes
        return top.collections[0].get_segments()

    np.testing.assert_allclose(segments(3), segments(1))


def test_faces_that_several_networks_answer_are_told_once():
    axis = charts.show_confusion(3 * np.array(CONFUSION), CLASSES, networks=3).axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["neutral (100)", "happiness (8)", "surprise (1,000)"]
