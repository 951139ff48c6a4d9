import json
from pathlib import Path
from typing import Any

import pytest

from regrow.tokenizers.alphabet import SPACE
from regrow.tokenizers.families import Constraints
from regrow.tokenizers.fertility import Fertility, measure_fertility, pruned_tokenizer
from regrow.tokenizers.tokenizer_files import vocabulary_candidates
from tests.tokenizers.bpe_cases import Json, load, tokenizer_json, trained, zeros
from tests.tokenizers.test_wordpiece import wordpiece_json
from tests.tokenizers.unigram_cases import unigram_json

PIECES = [(c, -1.0) for c in ("a", "b", SPACE, "日", "ab")]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (tokenizer_json([("a", "b")]), Fertility(8, 8, 0)),
        (unigram_json(PIECES), Fertility(8, 8, 3)),  # two runs of what is unknown
        (unigram_json(PIECES, byte_fallback=True), Fertility(8, 10, 0)),
        (wordpiece_json(["ab", "b", "日"]), Fertility(8, 4, 3)),
    ],
)
def test_tokens_and_what_is_unknown(contents: Json, expected: Fertility) -> None:
    found = measure_fertility(load(contents), iter(["ab xé b", "x"]))
    assert found == expected
    assert measure_fertility(load(contents), []) == Fertility(0, 0, 0)
    assert Fertility(0, 0, 0).tokens_per_character == 0
    assert expected.tokens_per_character == expected.tokens / 8
    assert expected.unknown_share == expected.unknown / 8


def test_what_would_be_lost_is_known_before_anything_is_written(tmp_path: Path) -> None:
    contents = unigram_json(PIECES)
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    found = vocabulary_candidates(
        tmp_path, zeros(contents), constraints=Constraints(characters=False)
    )
    tokenizer = pruned_tokenizer(tmp_path, found.choose(found.least))
    assert measure_fertility(load(contents), ["日"]).unknown == 0
    assert measure_fertility(tokenizer, ["日"]).unknown == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_the_code_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs/vocabulary.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    words = ["The row of the table.", " kubectl", "SolidGoldMagikarp"]
    (tmp_path / "model").mkdir()
    contents = trained(words * 3, 400, ["<tool>"])
    (tmp_path / "model/tokenizer.json").write_text(json.dumps(contents))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("32_000", "candidates.most"), found)
    vocab = json.loads(found["files"]["tokenizer.json"])["model"]["vocab"]
    assert len(vocab) == len(contents["model"]["vocab"]) - 1
    assert "Ġkubectl" in vocab
    assert "SolidGoldMagikarp" not in vocab
