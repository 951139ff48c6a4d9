"""A tokenizer.json of another form is refused in one line that names the key."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.tokenizers.encoding import open_tokenizer
from regrow.tokenizers.tokenizer_files import read_tokenizer
from regrow.tokenizers.tokenizer_form import MAX_ID, check_form
from tests.tiny import add_tokenizer

FAULTS: list[tuple[str, Any]] = [
    ("model", None), ("model", []), ("model.type", 3), ("model.vocab", None), ("model.vocab", {}),
    ("model.vocab", {"a": "x"}), ("model.vocab", {"a": -1}), ("model.vocab", {"a": True}),
    ("model.vocab", {"a": MAX_ID}), ("model.vocab[1]", [["a", 0.0], ["b", None]]),
    ("model.vocab[0]", [["a"]]), ("model.merges", None), ("model.merges", 3),
    ("model.merges[0]", [3]), ("model.merges[1]", [["a", "b"], ["a", 1]]),
    ("model.merges[0]", [[]]),
    ("model.unk_token", 3), ("model.unk_id", "x"), ("added_tokens", 3), ("added_tokens[0]", [3]),
    ("added_tokens[0]", [{"content": "a", "id": "0", "special": True}]),
    ("added_tokens[0]", [{"content": ["a"], "id": 0, "special": True}]),
    ("added_tokens[0]", [{"content": "a", "id": 0}]), ("padding", 3), ("padding", {"pad_id": []}),
    ("normalizer", [[]]), ("normalizer", {}), ("pre_tokenizer", {"type": 3}),
    ("pre_tokenizer", {"type": "Sequence"}),
    ("pre_tokenizer.pretokenizers", {"type": "Sequence", "pretokenizers": 3}),
    ("normalizer.normalizers[0]", {"type": "Sequence", "normalizers": [{}]}),
    ("post_processor.special_tokens", {"type": "TemplateProcessing"}),
    ("post_processor.special_tokens", {"type": "TemplateProcessing", "special_tokens": {"a": 1}}),
    ("post_processor.special_tokens",
     {"type": "TemplateProcessing", "special_tokens": {"a": {"ids": ["x"]}}}),
    ("post_processor.sep", {"type": "BertProcessing", "sep": 3, "cls": ["a", 1]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = add_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    contents: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text())
    return contents


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_each_fault_is_named(sound: dict[str, Any], key: str, value: Any) -> None:
    contents = copy.deepcopy(sound)
    assert check_form(contents) is contents
    first, *rest = key.split("[")[0].split(".")
    if first == "model" and rest:
        contents["model"][rest[0]] = value
        if isinstance(value, list) and rest[0] == "vocab":
            contents["model"]["type"] = "Unigram"
    else:
        contents[first] = value
    with pytest.raises(UserError) as caught:
        check_form(contents)
    assert str(caught.value).startswith(f"tokenizer.json: {key}")
    assert str(caught.value).endswith(" is wanted")


def test_an_id_that_no_vocabulary_has_asks_for_no_memory(
    tmp_path: Path, sound: dict[str, Any]
) -> None:
    """An array with an entry for each id would have 16 GiB."""
    contents = copy.deepcopy(sound)
    contents["model"]["vocab"]["a"] = 1 << 31
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(UserError, match=r"an id is 2,147,483,648; ids below 16,777,216"):
        open_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"model\.vocab: a whole number below 16,777,216"):
        read_tokenizer(tmp_path)
