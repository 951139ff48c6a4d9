import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from regrow.common.errors import UserError
from regrow.vocabulary.token_counts import CountedFile, Group, TokenCounts, merge

IDS = 5


def counts(
    source: str, row: list[int], *, script: str = "Latin", file: str = "a.jsonl", sha256: str = "1f"
) -> TokenCounts:
    group = Group(source, script, documents=2, characters=sum(row) * 3, bytes=sum(row) * 4)
    files = (CountedFile(f"/data/{file}", source, 100, sha256),)
    return TokenCounts("abc", (group,), np.array([row], dtype=np.int64), files)


def test_a_file_holds_all(tmp_path: Path) -> None:
    path = tmp_path / "counts.safetensors"
    written = counts("en", [1, 0, 7, 2, 1 << 40])
    written.save(path)
    read = TokenCounts.load(path)
    np.testing.assert_array_equal(read.counts, written.counts)
    assert (read.groups, read.files) == (written.groups, written.files)
    assert read.tokenizer_sha256 == "abc"
    written.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_merging_adds_groups_and_keeps_files() -> None:
    parts = [
        ("one", counts("en", [1, 2, 0, 0, 1])),
        ("two", counts("zh", [0, 0, 5, 5, 0], script="Han", file="b.jsonl", sha256="2f")),
        ("three", counts("en", [0, 1, 0, 0, 3], file="c.jsonl", sha256="3f")),
    ]
    merged = merge(parts)
    assert [group.key for group in merged.groups] == [("en", "Latin"), ("zh", "Han")]
    np.testing.assert_array_equal(merged.counts, [[1, 3, 0, 0, 4], [0, 0, 5, 5, 0]])
    assert merged.groups[0] == Group("en", "Latin", 4, 8 * 3, 8 * 4)
    assert [Path(file.path).name for file in merged.files] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    np.testing.assert_array_equal(merged.total, [1, 3, 5, 5, 4])
    np.testing.assert_array_equal(merged.of(["Han", "zh"], "x"), [0, 0, 5, 5, 0])
    assert merged.characters(["en"]) == 24
    assert merged.characters(["en", "Han", "zh"]) == 54
    assert merged.languages == ("en", "zh")
    assert merge(parts[:1]).languages == ("Latin",)
    shuffled = merge(parts[::-1])
    assert shuffled.groups == merged.groups
    np.testing.assert_array_equal(shuffled.counts, merged.counts)


def test_what_is_not_merged() -> None:
    a, other = counts("en", [1] * IDS), counts("zh", [2] * IDS)
    doubled = r"two: holds the counts of {}\.jsonl, whose text one has too"
    with pytest.raises(UserError, match=doubled.format("a")):
        merge([("one", a), ("two", other)])
    with pytest.raises(UserError, match=doubled.format("a").replace("two", "one")):
        merge([("one", a), ("one", a)])
    foreign = TokenCounts("def", a.groups, a.counts, ())
    with pytest.raises(UserError, match="two: counted with another tokenizer than one"):
        merge([("one", a), ("two", foreign)])
    # Short files of other names may well be equal; long ones are copies.
    renamed = counts("zh", [2] * IDS, file="b.jsonl")
    assert merge([("one", a), ("two", renamed)]).total.sum() == 15
    large = [
        replace(part, files=tuple(replace(file, bytes=1 << 20) for file in part.files))
        for part in (a, renamed)
    ]
    with pytest.raises(UserError, match=doubled.format("b")):
        merge([("one", large[0]), ("two", large[1])])


def test_a_name_that_was_not_counted() -> None:
    with pytest.raises(UserError, match=r"only: 'fr' was not counted; there are en, Latin"):
        counts("en", [1] * IDS).of(["en", "fr"], "only")


def test_what_is_no_file_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="no such file"):
        TokenCounts.load(path)
    good = counts("en", [1] * IDS)
    good.save(path)
    whole = path.read_bytes()
    fact = json.dumps({"format": 1, "groups": [], "files": [], "tokenizer_sha256": ""})
    for spoiled in (
        b"", b"no", whole[:-1],
        {"counts": good.counts}, {"other": good.counts},
        {"counts": -good.counts}, {"counts": good.counts[0]}, {"counts": good.counts * 1.0},
    ):  # fmt: skip
        if isinstance(spoiled, bytes):
            path.write_bytes(spoiled)
        else:
            save_file(spoiled, path, metadata={"regrow": fact})
        with pytest.raises(UserError, match="not token counts"):
            TokenCounts.load(path)
    group = {"source": "en", "script": "Latin", "documents": 1, "characters": 1, "bytes": 1}
    for wrong in (
        {"groups": [{**group, "documents": "1"}]}, {"groups": [{**group, "source": 3}]},
        {"groups": [{**group, "bytes": -1}]}, {"groups": 3}, {"files": [{"path": "a"}]},
        {"files": [{"path": "a", "source": "b", "bytes": True, "sha256": ""}]},
    ):  # fmt: skip
        facts = {"format": 1, "groups": [group], "files": [], "tokenizer_sha256": "", **wrong}
        save_file({"counts": good.counts}, path, metadata={"regrow": json.dumps(facts)})
        with pytest.raises(UserError, match="not token counts"):
            TokenCounts.load(path)
    save_file({"counts": good.counts}, path)
    with pytest.raises(UserError, match="not token counts"):
        TokenCounts.load(path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("groups", "source", 3), ("groups", "source", ["en"]), ("groups", "script", None),
        ("groups", "characters", -1), ("groups", "bytes", 1.5), ("groups", "documents", True),
        ("groups", "documents", 1 << 80), ("groups", "source", "\ud800"),
        ("files", "sha256", []), ("files", "path", 3), ("files", "bytes", "1"),
    ],
)  # fmt: skip
def test_facts_of_another_type_are_refused(
    tmp_path: Path, part: str, key: str, value: object
) -> None:
    path = tmp_path / "counts"
    written = counts("en", [1, 2, 3, 4, 5])
    facts = {**written.to_json(), "format": 1}
    for group in facts["groups"]:
        del group["tokens"]
    save_file({"counts": written.counts}, path, metadata={"regrow": json.dumps(facts)})
    assert TokenCounts.load(path).groups == written.groups
    facts[part][0][key] = value
    save_file({"counts": written.counts}, path, metadata={"regrow": json.dumps(facts)})
    with pytest.raises(UserError, match="not token counts"):
        TokenCounts.load(path)


def test_deeply_nested_facts_are_refused(tmp_path: Path) -> None:
    save_file({"counts": np.zeros((1, 1))}, tmp_path / "c", metadata={"regrow": "[" * 100_000})
    with pytest.raises(UserError, match="not token counts"):
        TokenCounts.load(tmp_path / "c")
