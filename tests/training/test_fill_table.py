"""A suite's table: what is there and holds is not made again, what does not hold is made anew."""

import pytest

from gje_world.training.suite import fill_table
from gje_world.training.tables import read_rows, write_rows

KEY, KINDS = ("name", "seed"), {"name": str, "seed": int, "by": str}


def fill(table, wanted, by, made):
    def make(name, seed, advance):
        if name == "broken":
            raise ZeroDivisionError
        advance()
        made.append((name, seed))
        return {"name": name, "seed": seed, "by": by, "score": 0.5}

    return fill_table(
        table, wanted, KEY, make, updates=1, told=str, kinds=KINDS, holds=lambda row: row["by"] == by
    )


def test_rows_that_hold_stay_and_the_others_that_are_wanted_are_made_anew(tmp_path):
    table, made = tmp_path / "table.csv", []
    rows = [("a", 1, "old"), ("b", 1, "new"), ("c", 1, "old")]
    write_rows(table, [{"name": n, "seed": s, "by": by, "score": 1.0} for n, s, by in rows])
    found = fill(table, [("a", 1), ("b", 1), ("a", 2), ("a", 1)], "new", made)
    assert made == [("a", 1), ("a", 2)]
    assert found == read_rows(table, KINDS)
    told = {(row["name"], row["seed"]): (row["by"], row["score"]) for row in found}
    assert len(found) == len(told) == 4
    assert told == {
        ("a", 1): ("new", 0.5), ("a", 2): ("new", 0.5), ("b", 1): ("new", 1.0), ("c", 1): ("old", 1.0)
    }  # fmt: skip


def test_rows_made_before_a_failure_are_kept(tmp_path):
    made: list = []
    with pytest.raises(ZeroDivisionError):
        fill(tmp_path / "table.csv", [("a", 1), ("broken", 1)], "new", made)
    assert [row["name"] for row in read_rows(tmp_path / "table.csv", KINDS)] == ["a"]
    fill(tmp_path / "table.csv", [("a", 1)], "new", made)
    assert made == [("a", 1)]
