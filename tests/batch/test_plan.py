"""What a part is: no row lost, none twice, none cut."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring_runtime.batch.plan import mini_batches, of_all, rows_of

FIELDS = st.text(st.sampled_from('ab1,"\n\r é'), max_size=6)


@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=20), most=st.integers(1, 5))
def test_the_parts_of_a_csv_are_its_records(
    rows: list[tuple[str, str]], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Line ends and quotes within quotes (RFC 4180), as Python's reader has them."""
    path = tmp_path_factory.mktemp("plan") / "rows.csv"
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *rows])
    path.write_text(out.getvalue(), newline="")
    parts = rows_of(path, most, 2**20, True)
    found: list[tuple[str, ...]] = []
    for part in parts:
        head, *records = csv.reader(io.StringIO(part.body().decode(), newline=""))
        assert head == ["x", "y"]
        assert len(records) == part.rows == len(part.records(part.body())) <= most
        assert part.first == len(found) + 1
        found += [tuple(each) for each in records]
    assert found == rows


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("r.csv", "a,b\r1,2\r3,4\r5,6", ["1,2", "3,4", "5,6"]),
        ("r.csv", "a,b\r\n1,2\r3,4\n5,6\r\n", ["1,2", "3,4", "5,6"]),
        ("r.csv", 'a,b\n5" x,2\n,"4\n5"\n6","8\n9"', ['5" x,2', ',"4\n5"', '6","8\n9"']),
        ("r.csv", '\ufeff"a\nb",c\n1,"2"\n"3,"",",4\n', ['1,"2"', '"3,"",",4']),
        ("r.jsonl", '{"a":\r1}\n[2]\n', ['{"a":\r1}', "[2]"]),
    ],
)
def test_rows_end_where_their_readers_end_them(
    name: str, text: str, rows: list[str], tmp_path: Path
) -> None:
    """A carriage return ends a record of CSV and none of JSON; a quote within a text is one."""
    path = tmp_path / name
    path.write_text(text, newline="")
    apart, [whole] = rows_of(path, 1, 2**20), rows_of(path, 100, 2**20)
    found = [each.strip().decode() for each in whole.records(whole.body())]
    assert found == rows
    assert whole.rows == sum(each.rows for each in apart) == len(apart) == len(rows)


@pytest.mark.parametrize(
    ("text", "kind", "bodies"),
    [
        ("a,b\n1,2\n\n3,4", "text/csv; header=present", [b"a,b\n1,2\n", b"a,b\n\n3,4"]),
        ("1,2\n3,4\n", "text/csv; header=absent", [b"1,2\n", b"3,4\n"]),
        ("0,1\n5,6\n", "text/csv; header=absent", [b"0,1\n", b"5,6\n"]),
        ("0,1,2\n5,6,7\n", "text/csv", [b"0,1,2\n5,6,7\n"]),  # a header as pandas writes it
        ("\ufeffa,b\n1,2\n", "text/csv; header=present", ["\ufeffa,b\n1,2\n".encode()]),
        ("", "text/csv; header=absent", []),
    ],
)
def test_the_header_is_before_each_part(
    text: str, kind: str, bodies: list[bytes], tmp_path: Path
) -> None:
    """By the rules of the format."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    parts = rows_of(path, 1, 2**20)
    assert [each.body() for each in parts] == bodies
    assert all(each.content_type == kind for each in parts)


def test_parts_are_bounded_by_bytes_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "%s"}\n\n' % ("x" * 90) * 50)
    parts = rows_of(path, 1000, 500)
    assert sum(each.rows for each in parts) == 50
    assert max(each.size for each in parts) < 700
    assert b"".join(each.body() for each in parts).strip() == path.read_bytes().strip()


def test_row_groups_of_parquet_are_cut_into_parts(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    moments = pd.date_range("2026-01-01", periods=25)
    pd.DataFrame({"n": range(25), "at": moments}).to_parquet(path, row_group_size=10)
    parts = rows_of(path, 4, 2**20)
    assert [each.rows for each in parts] == [4, 4, 2, 4, 4, 2, 4, 1]
    lines = b"".join(each.body() for each in parts).splitlines()
    assert lines[24] == b'{"n":24,"at":"2026-01-25T00:00:00"}'
    assert len({each.name for each in parts}) == len(parts)


def test_mini_batches_of_the_same_files_are_the_same_and_of_others_are_not(tmp_path: Path) -> None:
    for name in ("b", "a", "below/c", ".hidden", ".git/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    parts = mini_batches(tmp_path, 2)
    assert [[Path(path).name for path in each.paths] for each in parts] == [["a", "b"], ["c"]]
    assert mini_batches(tmp_path, 2) == parts
    os.utime(tmp_path / "a", ns=(1, 1))
    again = mini_batches(tmp_path, 2)
    assert again[0].name != parts[0].name and again[1] == parts[1]
    assert of_all(again) != of_all(parts)
