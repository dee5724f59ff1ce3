"""Tables beside the paper's rows, and scores as text, Markdown and JSON."""

import csv
import json
import math

import pytest

from evaluation.report import Score, Scores, Section, as_csv, as_json, as_latex, as_markdown, as_text
from evaluation.scores import tables
from evaluation.scores.metrics import METRICS


def measured(method: str = "ours", *, sets: tuple[str, ...] = ("live1",), qualities: tuple[int, ...] = (10,)) -> dict:
    scores = {"psnr": 30.126, "ssim": 0.81249, "psnrb": math.inf}
    gains = {"gain": 0.4, "worst_gain": -0.2, "jpeg": {"psnr": 29.726, "ssim": 0.7805, "psnrb": 27.0}}
    cell = scores | gains | {"images": {"a": scores | {"gain": -0.2}, "b": scores | {"gain": 1.0}}}
    return {
        "method": method,
        "channels": "gray",
        "protocol": "as tested",
        "results": {name: {str(quality): cell for quality in qualities} for name in sets},
    }


def jpeg_as_printed(number: int) -> dict:
    rows = tables.paper_table(number)["rows"]["JPEG"]
    results = {
        name: {str(quality): dict(zip(METRICS, values, strict=True)) for quality, values in cells.items()}
        for name, cells in rows.items()
    }
    return {"method": "jpeg", "results": results}


def test_printed_tables_cover_their_sets_and_qualities() -> None:
    luma_sets = ["classic5", "live1", "bsds500"]
    assert tables.sets_and_qualities(1) == (luma_sets, [10, 20, 30, 40])
    assert tables.sets_and_qualities(3) == (["live1", "bsds500", "icb"], [10, 20, 30, 40])
    assert tables.sets_and_qualities(4) == (luma_sets, [15, 25, 35, 45])
    assert [tables.paper_table(number)["channels"] for number in tables.JPEG_TABLES] == ["gray", "color", "gray"]


def test_measured_rows_stand_below_the_papers_with_its_decimals() -> None:
    (section,) = tables.compare(1, [measured()])
    assert section.rows[0] == ["method", "figures", "Q10", "Q20", "Q30", "Q40"]
    assert section.rows[1][:4] == ["JPEG", "printed", "27.77 / 0.773 / 25.33", "30.07 / 0.851 / 27.57"]
    assert section.rows[-3][0:2] == ["the paper", "printed"]
    assert section.rows[-2] == ["ours", "measured", "30.13 / 0.812 / inf", "-", "-", "-"]
    assert section.rows[-1] == ["minus the paper", "difference", "+0.33 / -0.015 / +inf", "-", "-", "-"]


def test_a_measured_row_is_compared_with_the_printed_row_of_its_system() -> None:
    rows = list(tables.paper_table(1)["rows"])
    named = {"jpeg": "JPEG", "DnCNN3": "DnCNN", "arcnn_q10": "ARCNN", "fbcnn_gray": "FBCNN", "fast_tiny_gray": "Ours"}
    assert {method: tables.counterpart(method, rows) for method in named} == named
    assert tables.counterpart("jpeg", tables.paper_table(2)["rows"]) is None


def test_a_difference_is_that_of_the_shown_digits_and_never_minus_zero() -> None:
    result = jpeg_as_printed(1)
    result["results"]["live1"]["10"] |= {"psnr": 27.768, "ssim": 0.7744}  # printed: 27.77, 0.773
    rows = {row[0]: row for row in tables.compare(1, [result])[1].rows}
    assert rows["minus JPEG"][2].startswith("+0.00 / +0.001 / +0.00")


def test_the_best_and_the_second_best_of_a_column_are_marked_and_equal_digits_share_a_mark() -> None:
    result = measured("mine", sets=("classic5",))
    result["results"]["classic5"]["10"] |= {"psnr": 30.119, "ssim": 0.9, "psnrb": 1.0}
    (section,) = tables.compare(1, [result])
    ranks = {row[0]: [score.rank for score in row[2].scores] for row in section.rows[1:] if row[1] != "difference"}
    assert ranks["the paper"] == [1, 2, 1] and ranks["FBCNN"] == [2, 2, 2]  # 30.16, 30.12; 0.822 twice; 29.85, 29.80
    assert ranks["mine"] == [2, 1, 0] and ranks["JPEG"] == [0, 0, 0]


def test_a_set_that_is_not_there_leaves_a_gap_with_its_name() -> None:
    live1, icb = tables.compare(3, [measured(sets=("live1",))], {"icb": "it is not under data"})
    assert "Table 3, icb" in icb.title and icb.notes[0] == "icb: not measured, it is not under data"
    assert icb.rows[-1] == ["ours", "measured", "-", "-", "-", "-"] and not live1.notes


def test_cells_absent_in_print_and_extra_digits_are_kept() -> None:
    classic5, live1 = tables.compare(1, [measured(sets=("classic5", "live1"))])
    assert next(row for row in classic5.rows if row[0] == "RDN")[-1] == "-"
    (table4,) = tables.compare(4, [measured(sets=("classic5",))])
    values = ["33.99 / 0.9015 / 33.20", "34.72 / 0.9122 / 33.83"]
    assert next(row for row in table4.rows if row[0] == "FBCNN")[-2:] == values
    assert live1.notes == []


def test_doubtful_printed_rows_carry_a_note() -> None:
    (section,) = tables.compare(1, [measured(sets=("bsds500",))])
    assert "RNAN and RDN on bsds500" in as_text(section)


@pytest.mark.parametrize("number", tables.JPEG_TABLES)
def test_printed_jpeg_row_agrees_with_itself(number: int) -> None:
    assert tables.check_jpeg(jpeg_as_printed(number), number) == (36, [])


def test_differing_jpeg_score_is_named() -> None:
    result = jpeg_as_printed(1)
    result["results"]["live1"]["20"]["psnr"] += 0.006
    num_compared, differences = tables.check_jpeg(result, 1)
    assert (num_compared, differences) == (36, ["live1 Q20 psnr: measured 30.0760, printed 30.07"])


def test_agreement_is_to_the_printed_digit() -> None:
    assert tables.agrees(27.8002, 27.8, "psnr") and not tables.agrees(27.8002, 27.81, "psnr")
    assert tables.agrees(0.7604, 0.76, "ssim") and not tables.agrees(0.7606, 0.76, "ssim")
    assert tables.agrees(32.7784, 32.778, "psnr") and not tables.agrees(32.7774, 32.778, "psnr")


def test_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="tables 1 to 5, got 7"):
        tables.paper_table(7)


def test_text_aligns_words_left_and_numbers_right() -> None:
    section = Section("Title", [["set", "PSNR"], ["live1", "9.50"], ["icb", "30.25"]], ["a note"])
    assert as_text(section).splitlines() == ["Title", "set     PSNR", "live1   9.50", "icb    30.25", "a note"]
    section = Section("Gains", [["set", "gain"], ["live1", "+9.50"], ["icb", "-10.25"]], [])
    assert as_text(section).splitlines() == ["Gains", "set      gain", "live1   +9.50", "icb    -10.25"]


def test_markdown_is_a_table_under_its_title() -> None:
    section = Section("Title", [["set", "PSNR"], ["live1", "9.50"]], ["a note"])
    assert as_markdown(section) == "**Title**\n\n| set | PSNR |\n|---|---|\n| live1 | 9.50 |\n\na note\n"


RANKED = Section(
    "Scores of a_b",
    [
        ["method", "Q10", "Q20"],
        ["x_1", Scores([Score("psnr", "30.10", 1), Score("ssim", "0.8", 2)]), Scores([Score("psnr", "31.00")])],
        ["y%", Scores([Score("psnr", "29.10", 2), Score("ssim", "-")]), "-"],
    ],
    ["a note"],
)


def test_marks_of_each_format() -> None:
    assert as_text(RANKED).splitlines()[2:] == [
        "x_1     30.10* / 0.8~  31.00",
        "y%         29.10~ / -      -",
        "a note",
        "* best, ~ second best",
    ]
    assert "| x_1 | **30.10** / <u>0.8</u> | 31.00 |" in as_markdown(RANKED)
    lines = as_latex(RANKED).splitlines()
    assert r"x\_1 & \textbf{30.10} / \underline{0.8} & 31.00 \\" in lines
    assert r"y\% & \underline{29.10} / - & - \\" in lines and r"\caption{Scores of a\_b. a note}" in lines


def test_csv_has_a_column_for_each_score_of_all_sections() -> None:
    other = Section("Other", [["method", "Q20"], ["z", Scores([Score("psnr", "32.00"), Score("ssim", "0.9")])]], [])
    assert list(csv.DictReader(as_csv([RANKED, other]).splitlines(), restval=None)) == [
        {"table": "Scores of a_b", "method": "x_1", "Q10 psnr": "30.10", "Q10 ssim": "0.8", "Q20 psnr": "31.00",
         "Q20 ssim": ""},
        {"table": "Scores of a_b", "method": "y%", "Q10 psnr": "29.10", "Q10 ssim": "", "Q20 psnr": "", "Q20 ssim": ""},
        {"table": "Other", "method": "z", "Q10 psnr": "", "Q10 ssim": "", "Q20 psnr": "32.00", "Q20 ssim": "0.9"},
    ]  # fmt: skip


def test_summary_has_a_row_per_set_and_quality_beside_the_jpeg() -> None:
    section = tables.summarize(measured(sets=("live1", "icb"), qualities=(10, 20)))
    assert section.rows[0] == ["set", "quality", "JPEG", "ours", "gain (dB)", "lowest gain (dB)", "images"]
    assert [row[:2] for row in section.rows[1:]] == [["live1", "10"], ["live1", "20"], ["icb", "10"], ["icb", "20"]]
    assert section.rows[1][2:] == ["29.73 / 0.780 / 27.00", "30.13 / 0.812 / inf", "+0.40", "-0.20", "2"]


def test_summary_says_what_a_set_gains_over_all_qualities_and_which_image_gains_least() -> None:
    result = measured(sets=("live1", "icb"), qualities=(10, 20))
    result["results"]["icb"]["20"] = result["results"]["icb"]["20"] | {
        "images": {"a": {"gain": 3.0}, "b": {"gain": -0.5}}
    }
    live1, icb, _ = tables.summarize(result).notes
    assert live1 == (
        "live1: PSNR gain over the JPEG, all qualities: mean +0.400 dB; lowest -0.200 dB (a at Q10); below zero: 2 of 4"
    )
    assert "mean +0.825 dB" in icb and "lowest -0.500 dB (b at Q20)" in icb


def test_json_turns_infinite_scores_into_null() -> None:
    content = json.loads(as_json({"measured": [measured()]}))
    cell = content["measured"][0]["results"]["live1"]["10"]
    assert cell["psnrb"] is None and cell["images"]["b"] == {
        "psnr": 30.126,
        "ssim": 0.81249,
        "psnrb": None,
        "gain": 1.0,
    }
