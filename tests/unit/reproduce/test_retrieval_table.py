"""What a claim's page tells of the retrieval that a merge leaves."""

from tove.reproduce.answers import gather
from tove.reproduce.claim import read_claim
from tove.reproduce.page import answer, write_outcome
from tove.reproduce.retrieval_table import retrieval_table


def retrieval(before: float, after: float) -> dict:
    both = dict(image_to_text=before, text_to_image=before + 0.1, chance=0.005)
    own = dict(image_to_text=after, text_to_image=after + 0.1, chance=0.005)
    return {"source": both, "transformers": own, "images": 200}


def test_an_arm_s_line_has_the_means_over_seeds_before_and_after():
    rows = {
        "merged": {0: {"retrieval": retrieval(0.6, 0.1)}, 1: {"retrieval": retrieval(0.5, 0.2)}},
        "without a text tower": {0: {"retrieval": {"images": 200}}},
        "plain": {0: {}},
    }
    note, (heads, *lines) = retrieval_table(rows)
    assert lines == [["merged", "0.55", "0.15", "0.65", "0.25"]]
    assert len(heads) == 5
    assert "among 200 test images" in note
    assert "By chance 0.005" in note
    assert retrieval_table({"plain": {0: {}}}) == ("", [])


def test_the_page_has_it(write_claim, make_record, tmp_path):
    claim = read_claim("helps", write_claim().parent)
    records = {name: {0: make_record(0, {name: 0.8})} for name in ("plain", "ours")}
    records["ours"][0].told["rows"][0]["retrieval"] = retrieval(0.6, 0.1)
    kept = [own[0] for own in records.values()]
    page = write_outcome(answer(claim, gather(records, {}), kept), tmp_path).read_text()
    assert "## Zero-shot retrieval" in page
    assert "| ours | 0.60 | 0.10 | 0.70 | 0.20 |" in page
