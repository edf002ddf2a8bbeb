"""Tables say the numbers, their direction and where they come from."""

from __future__ import annotations

import io

from rich.console import Console

from deapcache.results import make_blocks, plain_text, print_tables, summarise
from deapcache.results.record import make_result
from deapcache.results.table import PRIOR_ROW, rich_table


def _summaries(facts, **changes):
    results = [make_result(facts(seed=seed, iou=iou, **changes)) for seed, iou in ((0, 0.5), (1, 0.7))]
    return summarise([*results, make_result(facts(readout="bicubic", iou=0.4, **changes))])


def test_block_has_scores_prior_and_sources(facts) -> None:
    (block,) = make_blocks(_summaries(facts))
    assert block.title == "boundaries · coco"
    assert block.header == ("backbone", "readout", "IoU ↑", "CE [nats] ↓", "seeds", "parameters")
    assert block.rows == (
        ("tiny", "bicubic", "0.4000", "0.3000", "1", "43,264"),
        ("tiny", "deap", "0.6000 ± 0.1414", "0.3000 ± 0.0000", "2", "43,264"),
        (PRIOR_ROW, "", "0.1000", "0.7000", "", "0"),
    )
    notes = "\n".join(block.notes)
    assert "backbone forwards: 0" in notes
    assert "somewhere/val targets" in notes
    for summary in _summaries(facts):
        assert summary.protocol_digest[:12] in notes


def test_undefined_score_is_a_dash(facts) -> None:
    (block,) = make_blocks(summarise([make_result(facts(iou=float("nan")))]))
    assert block.rows[0][2] == "–"


def test_mixed_conditions_stand_in_blocks_of_their_own(facts) -> None:
    results = [make_result(facts(iterations=n)) for n in (5, 9)]
    assert len(make_blocks(summarise(results, allow_mixed=True))) == 2


def test_a_file_gets_aligned_uncut_text_without_escapes(facts) -> None:
    file = io.StringIO()
    print_tables(_summaries(facts, backbone="a-backbone-with-a-very-long-name" * 4), file=file)
    text = file.getvalue()
    assert "\x1b" not in text
    assert "a-backbone-with-a-very-long-name" * 4 in text
    lines = text.splitlines()[1:5]
    assert len({line.index(cell) for line, cell in zip(lines[1:], ("bicubic", "deap"), strict=False)}) == 1


def test_terminal_table_shows_the_same(facts) -> None:
    (block,) = make_blocks(_summaries(facts))
    console = Console(file=io.StringIO(), width=200, force_terminal=True, no_color=True)
    console.print(rich_table(block))
    for row in block.rows:
        assert all(cell in console.file.getvalue() for cell in row)
    assert plain_text(block).splitlines()[0] == block.title
