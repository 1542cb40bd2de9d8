import io
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tove.report import figures, gate_maps
from tove.report.row_roles import Score
from tove.report.theme import LIGHT, draw, slot_colours


@pytest.fixture
def random():
    return np.random.default_rng(0)


def drawn(figure):
    """Draw in both dresses, warnings as errors, and give the sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw("name", "alt", "caption", figure)
    light, dark = (
        Image.open(io.BytesIO(png)).convert("RGB") for png in (picture.light, picture.dark)
    )
    assert light.size == dark.size
    assert light.getpixel((1, 1)) == (255, 255, 255)
    assert max(dark.getpixel((1, 1))) < 64
    return light


@pytest.mark.parametrize("slots", [["only"], ["_x", "$a$", "b"], [f"slot_{i}" for i in range(14)]])
def test_pictures_of_gates_take_any_number_of_experts_of_any_name(random, slots):
    colours = slot_colours(slots)
    gates = random.dirichlet(np.ones(len(slots)), size=(2, 4, 4))
    images = random.integers(0, 255, size=(2, 16, 16, 3), dtype=np.uint8)
    shown = {"images_ISS3": images, "gates_IhwK": gates, "colours": colours}
    drawn(partial(gate_maps.gate_maps, **shown))
    drawn(partial(gate_maps.expert_maps, **shown))
    drawn(partial(figures.gate_means, per_image_IK=gates.mean((1, 2)), colours=colours))
    layers = gates.mean(2)
    layers[0, 1] = np.nan
    drawn(partial(figures.gate_layers, per_layer_ILK=layers, colours=colours, ends=("near", "far")))


def test_every_slot_has_a_colour_of_its_own_and_keeps_it():
    assert slot_colours(["a", "b"])["b"] == slot_colours(["a", "b", "c"])["b"]
    for count in (3, 12, 30):
        colours = slot_colours([str(i) for i in range(count)])
        assert len(set(colours.values())) == count


def test_an_overlay_has_the_winner_s_colour_and_fades_without_preference():
    gates = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]]])
    layer = gate_maps.preference_overlay(gates, ["#ff0000", "#0000ff"], 1.0)
    np.testing.assert_allclose(layer[0, 0, :3], [1, 0, 0])
    np.testing.assert_allclose(layer[1, 0, :3], [0, 0, 1])
    opacity = layer[..., 3]
    assert opacity[0, 1] == 0
    assert opacity[0, 0] > opacity[1, 0] > opacity[1, 1] > 0
    assert opacity.max() < 1


def test_detachment_is_drawn_with_and_without_intervals_and_references():
    scores = [Score("vsr/accuracy", 0.8, 0.78, 0.82), Score("vsr/accuracy", 0.7, 0.68, 0.72)]
    plain = [Score("caption/CIDEr", 0.8), Score("caption/CIDEr", 0.7)]
    for points, references in ((scores, {"baseline": scores[1]}), (plain, {})):
        figure = partial(
            figures.detachment,
            labels=["all", "- a"],
            scores=points,
            references=references,
            colours=[None, "#0072B2"],
        )
        drawn(figure)


def test_relations_are_drawn_also_where_a_row_lacks_one():
    score = Score("vsr/relation/left", 0.8, 0.7, 0.9)
    rows = {"tove": {"left": score, "on $top$": score}, "baseline": {"left": score}, "c": {}}
    relations = ["left", "on $top$"]
    drawn(partial(figures.relation_bars, rows=rows, relations=relations, emphasised=["tove"]))


def test_bars_of_relations_are_as_long_as_their_scores_and_in_the_order_given():
    rows = {
        "tove": {"left": Score("vsr/relation/left", 0.8, 0.7, 0.9), "on": Score("on", 0.25)},
        "baseline": {"left": Score("vsr/relation/left", 0.5, 0.4, 0.6)},
    }
    figure = figures.relation_bars(LIGHT, rows, ["on", "left"], ["tove"])
    panels = {axes.get_title(): axes for axes in figure.axes}
    lengths = {name: [bar.get_width() for bar in panels[name].patches] for name in rows}
    assert lengths == {"tove": [25.0, 80.0], "baseline": [0, 50.0]}
    marks = [text.get_text() for text in panels["baseline"].texts]
    assert marks == ["-", "50"]
    (interval, chance) = panels["tove"].lines
    np.testing.assert_allclose(interval.get_xdata(), [70, 90])
    np.testing.assert_allclose(interval.get_ydata(), [1, 1])
    assert set(chance.get_xdata()) == {50}
    names = [label.get_text() for label in panels["tove"].get_yticklabels()]
    assert names == ["on", "left"]
    # The first relation is on top.
    assert panels["tove"].yaxis_inverted()


def test_means_of_gates_are_drawn_at_their_values():
    per_image = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
    figure = figures.gate_means(LIGHT, per_image, {"a": "#111111", "b": "#222222"})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.7, 0.3])
    spread = [list(line.get_xdata()) for line in axes.lines[:2]]
    np.testing.assert_allclose(spread, [[0.54, 0.86], [0.14, 0.46]])
    assert set(axes.lines[2].get_xdata()) == {0.5}
    assert [text.get_text().strip() for text in axes.texts] == ["0.70", "0.30"]


def test_removals_are_drawn_at_their_scores_with_their_intervals():
    scores = [Score("vsr/accuracy", 0.8, 0.78, 0.82), Score("vsr/accuracy", 0.7, 0.66, 0.72)]
    figure = figures.detachment(
        LIGHT, ["all", "- a"], scores, {"baseline": Score("vsr/accuracy", 0.6)}, [None, "#0072B2"]
    )
    (axes,) = figure.axes
    curve, first, second, reference = axes.lines
    np.testing.assert_allclose(curve.get_ydata(), [80, 70])
    assert (first.get_markerfacecolor(), second.get_markerfacecolor()) == (LIGHT.ink, "#0072B2")
    assert set(reference.get_ydata()) == {60}
    band = axes.collections[0].get_paths()[0].vertices
    assert {float(y) for x, y in band if x == 0} == {78.0, 82.0}
    assert {float(y) for x, y in band if x == 1} == {66.0, 72.0}
    assert [text.get_text() for text in axes.texts] == ["80.0", "70.0"]


def test_layers_of_gates_leave_out_images_without_the_layer():
    layers = np.array([[[0.2, 0.8], [np.nan, np.nan]], [[0.4, 0.6], [0.9, 0.1]]])
    colours = {"a": "#111111", "b": "#222222"}
    (axes,) = figures.gate_layers(LIGHT, layers, colours, ("near", "far")).axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0.3, 0.9])
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [0.7, 0.1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["near", "far"]


def test_no_two_of_many_curves_look_alike():
    steps = np.arange(1.0, 60)
    many = {str(i): (steps, 1 / steps) for i in range(13)}
    lines = figures.loss_curves(LIGHT, "loss", many).axes[0].lines[1::2]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == 13


def test_losses_that_span_decades_get_a_logarithmic_scale():
    steps = np.arange(1.0, 60)
    wide = figures.loss_curves(LIGHT, "loss", {"a": (steps, 100 / steps**2)})
    narrow = figures.loss_curves(
        LIGHT, "loss", {"a": (steps, 1 + 1 / steps), "_b": (steps, 0 * steps)}
    )
    assert wide.axes[0].get_yscale() == "log"
    assert narrow.axes[0].get_yscale() == "linear"
    drawn(partial(figures.loss_curves, name="loss", curves={"_b": (steps[:1], steps[:1])}))


def test_smoothing_keeps_a_constant_and_does_not_start_at_zero():
    np.testing.assert_allclose(figures.smoothed(np.full(50, 3.0), 10), 3.0)
    assert figures.smoothed(np.array([5.0, 1.0]), 10)[0] == 5.0


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    from matplotlib.figure import Figure

    from tove.report.theme import plain_log_scale

    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0.5, 2000], [1, 2])
    plain_log_scale(axes, "x")
    figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert "10" in labels
    assert not any("$" in label or "math" in label for label in labels)
