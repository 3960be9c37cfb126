"""Charts: scales put values where their ticks say, and odd data still gives a chart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from fidfast.charts import Bar, Curve, Point, Scale, count_name, line_chart, number, stacked_bars, value_scale


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(("low", "high"), [(1.0, 9.0), (0.02, 310.0), (99.5, 100.25)])
def test_ticks_are_round_and_stand_in_order_inside(low, high, logarithmic):
    scale = Scale(low, high, 200.0, 20.0, logarithmic=logarithmic)
    ticks = scale.ticks()
    assert all(low <= tick <= high * (1 + 1e-12) for tick in ticks) and ticks == sorted(set(ticks))
    assert len(ticks) >= 2 or logarithmic
    places = [scale.place(tick) for tick in ticks]
    assert places == sorted(places, reverse=True) and all(20 - 1e-9 <= place <= 200 + 1e-9 for place in places)
    assert scale.place(low) == 200 and scale.place(high) == pytest.approx(20)


def test_a_logarithmic_scale_gives_equal_ratios_equal_lengths():
    scale = Scale(1.0, 1000.0, 0.0, 300.0, logarithmic=True)
    assert [scale.place(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 300])
    assert scale.ticks() == [1, 10, 100, 1000]


@pytest.mark.parametrize(
    ("values", "low", "logarithmic"),
    [([3.0, 10.0], 0.0, False), ([95.0, 100.0], 94.0, False), ([1.0, 400.0], 1 / 1.15, True),
     ([-2.0, 90.0], -25.0, False), ([5.0], 5.0, False), ([0.0], 0.0, False)],
)  # fmt: skip
def test_the_vertical_axis_begins_where_the_values_need_it(values, low, logarithmic):
    scale = value_scale(values, 200.0, 20.0)
    assert scale.logarithmic is logarithmic
    assert scale.low == pytest.approx(low, rel=0.02) and scale.high >= max(values)
    assert all(20 - 1e-9 <= scale.place(value) <= 200 + 1e-9 for value in values)


@pytest.mark.parametrize(
    ("value", "name"), [(800, "800"), (1500, "1.5k"), (2000, "2k"), (50_000, "50k"), (1_281_167, "1.28M")]
)
def test_counts_have_short_names(value, name):
    assert count_name(value) == name


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (-2.5, "−2.5"), (12000, "12,000"), (0.25, "0.25"), (1e-6, "1e−06")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "points",
    [[Point(1, 5.0)], [Point(1, 5.0), Point(2, 5.0)], [Point(1, 0.0), Point(1, 0.0)],
     [Point(3, -1.0, 2.0), Point(9, 1e6)], [Point(1, 1e-9), Point(2, 3e-9, 1e-9)]],
)  # fmt: skip
def test_odd_data_give_a_chart_with_every_point_inside(points):
    chart = line_chart("says <this>", [Curve("a & b", points), Curve("c", points, "dashed", 1)], x_label="x")
    HTMLParser().feed(chart)
    assert 'aria-label="says &lt;this&gt;"' in chart and "a &amp; b" in chart
    height = float(re.findall(r'viewBox="0 0 720 (\d+)"', chart)[0])
    marks = re.findall(r'<circle class="mark" cx="([\d.-]+)" cy="([\d.-]+)"', chart)
    assert len(marks) == len(points) + 1  # and that of the legend
    assert all(0 <= float(x) <= 720 and 0 <= float(y) <= height for x, y in marks)


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="curves: expected at least one point, got none"):
        line_chart("", [Curve("empty", [])], x_label="x")


def test_bars_are_as_long_as_their_shares_and_a_part_keeps_its_colour():
    chart = stacked_bars(
        "says", [Bar("one", [("a", 3.0), ("b", 1.0)], "4 s"), Bar("two", [("b", 2.0), ("c", 6.0)], "8 s")]
    )
    parts = re.findall(
        r'class="curve c(\d)"><rect class="part" x="[\d.]+" y="[\d.]+" width="([\d.]+)" height="22"', chart
    )
    assert [colour for colour, _ in parts] == ["0", "1", "1", "2"]
    lengths = [float(length) for _, length in parts]
    assert lengths[0] == pytest.approx(3 * lengths[1], abs=0.3) and lengths[3] == pytest.approx(lengths[0], abs=0.1)
    assert "a: 75%" in chart and "8 s" in chart


def test_a_long_legend_goes_on_in_the_next_row():
    curves = [Curve(f"a run with a long name, number {index}", [Point(1, 2.0 + index)]) for index in range(5)]
    chart = line_chart("says", curves, x_label="x")
    keys = re.findall(r'<text class="axis" x="([\d.]+)" y="([\d.]+)">a run', chart)
    assert len(keys) == 5 and len({y for _, y in keys}) == 3
    assert all(float(x) + 6.7 * len("a run with a long name, number 0") <= 720 for x, _ in keys)
    first_mark = min(float(y) for y in re.findall(r'<text class="axis end"[^>]*y="([\d.]+)"', chart))
    assert first_mark > max(float(y) for _, y in keys)  # the plot begins below


def test_pictures_stand_below_their_points_and_cover_no_words():
    points = [Point(place, 2.0 + place) for place in range(4)]
    ticks = [(float(place), f"name {place}") for place in range(4)]
    uris = [f"data:image/png;base64,{place}" for place in range(4)]
    chart = line_chart("says", [Curve("one", points)], x_label="below", x_ticks=ticks, pictures=uris, width=460)
    places = re.findall(r'<image href="data:[^"]+(\d)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height', chart)
    marks = re.findall(r'<circle class="mark" cx="([\d.]+)"', chart)
    assert [float(x) + float(size) / 2 for _, x, _, size in places] == pytest.approx([float(x) for x in marks], abs=0.2)
    words = {text: float(y) for y, text in re.findall(r'<text class="axis [^>]*y="([\d.]+)">([^<]+)</text>', chart)}
    tops, bottoms = ({float(y) + with_size * float(size) for _, _, y, size in places} for with_size in (0, 1))
    assert words["name 0"] + 4 <= min(tops) and words["below"] - 12 >= max(bottoms)  # letters rise 12 above their line
    assert float(re.findall(r'viewBox="0 0 460 (\d+)"', chart)[0]) >= words["below"] + 4
