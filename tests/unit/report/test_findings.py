import pytest

from tove.engine.rows import reference_of, role_of
from tove.report.findings import findings, headline
from tove.report.row_roles import Score, compare, format_score, score_of, standing_of

METRIC = "vsr/accuracy"


def told(rows):
    return headline(standing_of(rows), METRIC)


def details(rows):
    return " ".join(findings(standing_of(rows), [METRIC]))


def test_a_gain_is_stated_with_what_the_merged_encoder_keeps_and_costs(make_rows):
    assert told(make_rows()) == (
        "The experts help: ToVE 85.0 % statement accuracy against 75.0 % for its parameter-matched "
        "baseline; the merged encoder keeps 60 % of the gain at the plain encoder's cost."
    )


def test_of_what_trains_in_two_stages_the_last_counts(make_rows):
    rows = make_rows()
    on_the_way = [
        {
            **row,
            "name": f"{row['name']}_align",
            "role": role_of(row),
            "metrics": {METRIC: {"value": 0.03}},
        }
        for row in rows
        if role_of(row) in ("plain", "baseline", "method")
    ]
    assert told([*on_the_way, *rows]) == told(rows)
    assert reference_of([*on_the_way, *rows], "method")["name"] == "baseline"


def test_a_method_that_hurts_is_said_not_to_help(make_rows):
    text = told(make_rows(tove=0.68))
    assert text.startswith("ToVE does not help here: 68.0 %")
    assert "merged" not in text
    assert "ToVE had no gain for it to keep" in details(make_rows(tove=0.68))


def test_overlapping_intervals_are_not_distinguishable_whatever_the_sign(make_rows):
    for score in (0.73, 0.78):
        assert "No measurable help" in told(make_rows(tove=score))
        assert "ToVE and its parameter-matched baseline are not distinguishable" in details(
            make_rows(tove=score)
        )
    assert "% of ToVE's gain" not in details(make_rows(tove=0.78, merged=0.77))


@pytest.mark.parametrize("score", [0.75, 0.70])
def test_a_merged_encoder_that_keeps_nothing_is_said_to(make_rows, score):
    assert "keeps none of the gain" in told(make_rows(merged=score))
    assert "keeps none of ToVE's gain" in details(make_rows(merged=score))


def test_a_merged_encoder_that_is_slower_is_said_to_be(make_rows):
    rows = make_rows()
    rows[-1]["forward_ms"] = 3.0
    assert "3.0 times the plain encoder's time" in told(rows)


def test_without_intervals_no_difference_is_judged(make_rows):
    rows = make_rows()
    for row in rows:
        row["metrics"][METRIC] = {"value": row["metrics"][METRIC]["value"]}
    assert "without intervals" in told(rows)
    assert "no intervals to judge" in details(rows)


def test_what_did_not_run_is_said_not_raised(make_rows):
    by_name = {row["name"]: row for row in make_rows()}
    assert "no row of a method" in told([])
    assert details([]) == ""
    assert "there is no baseline" in told([by_name["tove"]])
    assert "for plain CLIP" in told([by_name["plain_clip"], by_name["tove"]])
    assert told([by_name["baseline"], by_name["tove"]]).endswith("parameter-matched baseline.")


def test_detachment_tells_how_many_experts_are_free_and_what_remains(make_rows):
    text = details(make_rows())
    assert "until 1 of 2 are gone" in text
    assert "With every expert removed it is 75.0 %, not distinguishable from" in text
    text = details(make_rows(after=(0.6, 0.5)))
    assert "already the first removal" in text
    assert "it is 50.0 %, below its parameter-matched baseline" in text


def test_a_score_that_removals_cost_is_told_beside_one_that_they_do_not(make_rows):
    rows = make_rows(tove=0.76, after=(0.76, 0.76))
    for row in rows:
        value = 1.2 if row["name"] == "tove-b" else 2.8
        row["metrics"]["caption/CIDEr"] = {"value": value, "low": value - 0.2, "high": value + 0.2}
    text = " ".join(findings(standing_of(rows), [METRIC, "caption/CIDEr"]))
    assert "By statement accuracy all 2 experts can be removed" in text
    assert "By caption CIDEr experts can be removed, without re-tuning, until 1 of 2" in text
    assert "in statement accuracy: ToVE 76.0 %" in headline(standing_of(rows), METRIC)


def _answering_alike(rows, *names, share=1.0):
    for row in rows:
        if row["name"] in names:
            row["metrics"]["vsr/top_answer_share"] = {"value": share, "n": 1000}
    return rows


def test_one_answer_to_everything_is_no_result(make_rows):
    rows = make_rows(0.52, 0.52, 0.52, 0.52, after=(0.52, 0.52))
    assert "all 2 experts can be removed" in details(rows)
    _answering_alike(rows, *(row["name"] for row in rows), share=0.995)
    assert told(rows).startswith(
        "This run tells nothing of the experts: ToVE gives one answer to everything, and its "
        "parameter-matched baseline gives one answer to everything: 52.0 % statement accuracy"
    )
    text = details(rows)
    assert (
        "each of plain_clip, baseline, tove, tove-a, tove-b, merged gives one answer to everything"
    ) in text
    assert "What the removal of experts costs in statement accuracy cannot be told" in text
    assert "can be removed" not in text
    assert "distinguishable" not in text


def test_a_rival_of_one_answer_is_named_and_compared(make_rows):
    rows = _answering_alike(make_rows(), "baseline")
    assert told(rows).startswith("The experts help")
    assert "each of baseline gives one answer to everything" in details(rows)
    rows = _answering_alike(make_rows(), "baseline", "tove", share=0.98)  # answers differ
    assert "one answer" not in told(rows) + details(rows)
    alone = [row for row in _answering_alike(make_rows(), "tove") if row["name"] == "tove"]
    assert "but gives one answer to everything; there is no baseline" in told(alone)


def test_scores_of_zero_are_no_result(make_rows):
    rows = make_rows(0.0, 0.0, 0.0, 0.0, after=(0.0, 0.0), spread=0.0)
    assert "ToVE gets nothing right, and its parameter-matched baseline gets nothing" in told(rows)
    assert "can be removed" not in details(rows)
    assert told(make_rows(tove=0.0)).startswith("ToVE does not help here")


def test_removing_experts_that_gained_nothing_is_not_praised(make_rows):
    text = details(make_rows(tove=0.76, after=(0.76, 0.76)))
    assert "all 2 experts can be removed" in text
    assert "no measurable gain over its parameter-matched baseline to lose" in text
    assert "no measurable gain" not in details(make_rows())


def test_removals_are_read_off_the_rows(make_rows):
    standing = standing_of(make_rows())
    assert list(standing.removed) == ["a", "b"]
    assert [row["name"] for row in standing.detached] == ["tove-a", "tove-b"]


def test_scores_are_written_in_their_unit():
    assert format_score("vsr/accuracy", 0.8123) == "81.2 %"
    assert format_score("vsr/relation/left of", 0.5) == "50.0 %"
    assert format_score("caption/CIDEr", 1.0) == "1.000"
    assert Score("caption/CIDEr", 1.0).interval == ""


def test_touching_intervals_are_alike(make_rows):
    ours, other = Score(METRIC, 0.6, 0.5, 0.7), Score(METRIC, 0.4, 0.3, 0.5)
    assert compare(ours, other) == "alike"
    assert compare(ours, Score(METRIC, 0.4, 0.3, 0.49)) == "above"
    assert compare(Score(METRIC, 0.4, 0.3, 0.49), ours) == "below"
    assert score_of(make_rows()[0], "caption/CIDEr") is None


def test_a_paired_gain_decides_where_intervals_overlap(make_rows):
    rows = make_rows(tove=0.78)
    rows[2]["gain"] = {"over": "baseline", METRIC: {"value": 0.03, "low": 0.01, "high": 0.05}}
    assert told(rows).startswith("The experts help: ToVE 78.0 %")
    assert "+3.0 points (+1.0 to +5.0); that interval excludes zero" in details(rows)
    rows[2]["gain"][METRIC] |= {"low": -0.01}
    assert "No measurable help" in told(rows)
    assert "(-1.0 to +5.0); that interval holds zero" in details(rows)


def test_the_merged_baseline_is_the_merged_encoders_control(make_rows):
    rows = make_rows()
    control = {**rows[1], "name": "merged_baseline", "stage": "merged_baseline"}
    assert "against 75.0 % (73.0 to 77.0), +6.0 points" in details([*rows, control])
    assert "lies above the baseline merged on the same images" in details([*rows, control])
