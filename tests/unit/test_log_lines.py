"""Progress without a terminal: a line now and then, and one at the end."""

import time

from ldm_ray.log_lines import DetailLines, LineProgress


def test_a_line_now_and_then_and_one_at_the_end() -> None:
    lines: list[str] = []
    with LineProgress(lines.append, every_s=0.05) as bar:
        task = bar.add_task("wells", total=None)
        bar.update(task, completed=1, total=4)
        assert lines == []  # too soon
        time.sleep(0.06)
        bar.update(task, completed=2, total=4)
        assert len(lines) == 1
        assert lines[0].startswith("wells: 2 of 4, ")
        assert lines[0].endswith(" s left")
        bar.update(task, completed=4, total=4)
        assert lines[1].startswith("wells: 4 of 4, ")
        bar.update(task, completed=4, total=4)  # asked again, nothing new
    assert len(lines) == 2


def test_what_was_last_heard_is_said_where_it_ends_early() -> None:
    lines: list[str] = []
    with LineProgress(lines.append) as bar:
        task = bar.add_task("trials", best="starting")
        bar.update(task, completed=3, total=9, best="best 0.2")
    assert len(lines) == 1
    assert lines[0].startswith("trials: 3 of 9, best 0.2, ")


def test_a_long_step_says_what_it_is_at() -> None:
    lines: list[str] = []
    step = DetailLines(lines.append, "fitting", every_s=0.05)
    step.tell("first")
    assert lines == []  # too soon
    time.sleep(0.06)
    step.tell("random: paper")
    step.tell("drug: paper")
    assert len(lines) == 1
    assert lines[0].startswith("fitting: random: paper, ")
