"""What is taken over from the card of a base model, and what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from regrow.checkpoint.base_card import card_facts, hub_id_of, read_metadata, source_name
from regrow.common.errors import UserError


def write_card(directory: Path, metadata: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(f"---\n{metadata}\n---\n# Base\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ("license: Apache-2.0\nlanguage: en", {"license": "apache-2.0", "language": ["en"]}),
        ("language: [en, no, zh-Hans]", {"language": ["en", "no", "zh-Hans"]}),
        ("pipeline_tag: text-generation\ntags: [x]", {"pipeline_tag": "text-generation"}),
        ("license: [mit, gpl]\nlanguage: {a: b}\npipeline_tag: 7", {}),
        ("license: 'mit\\x1b[31m <b>'\nlanguage: ['<script>']", {}),
        ("license_name: of no licence", {}),
        ("base_model: other/one\nlibrary_name: peft\nmodel-index: 3", {}),
        ("", {}),
    ],
)
def test_only_what_has_the_form_of_the_hub_is_taken(
    tmp_path: Path, metadata: str, found: dict[str, Any]
) -> None:
    assert card_facts(write_card(tmp_path, metadata), None) == found


def test_a_link_to_a_licence_leads_to_where_the_licence_is(tmp_path: Path) -> None:
    card = write_card(tmp_path, "license: other\nlicense_name: own\nlicense_link: LICENSE")
    assert card_facts(card, None) == {"license": "other", "license_name": "own"}
    there = "https://huggingface.co/owner/name/blob/main/LICENSE"
    assert card_facts(card, "owner/name")["license_link"] == there
    (tmp_path / "LICENSE").write_text("free")  # it is carried over
    assert card_facts(card, "owner/name")["license_link"] == "LICENSE"
    away = write_card(tmp_path / "a", "license: other\nlicense_link: ../../etc/passwd")
    assert "license_link" not in card_facts(away, "owner/name")
    url = write_card(tmp_path / "b", "license: other\nlicense_link: https://x.org/licence")
    assert card_facts(url, None)["license_link"] == "https://x.org/licence"


def test_a_licence_that_the_hub_does_not_know_becomes_other(tmp_path: Path) -> None:
    card = write_card(tmp_path / "a", "license: my-licence-1.0")
    assert card_facts(card, None) == {"license": "other", "license_name": "my-licence-1.0"}
    named = write_card(tmp_path / "b", "license: own\nlicense_name: its-name")
    assert card_facts(named, None) == {"license": "other", "license_name": "its-name"}
    # A card on the hub was accepted there, also with a licence that is newer than the list.
    assert card_facts(card, "owner/name") == {"license": "my-licence-1.0"}


def test_a_link_to_another_file_than_the_hub_allows_is_left_out(tmp_path: Path) -> None:
    card = write_card(tmp_path, "license: other\nlicense_link: LICENSE.txt")
    (tmp_path / "LICENSE.txt").write_text("free")
    assert card_facts(card, None) == {"license": "other"}
    there = "https://huggingface.co/owner/name/blob/main/LICENSE.txt"
    assert card_facts(card, "owner/name")["license_link"] == there


@pytest.mark.parametrize(
    "raw",
    [
        b"---\na: [\n---\n",
        b"---\n- a\n---\n",
        b"---\na: \xff\n---\n",
        b"---\n" + b"[" * 5000,
        b"---\nlicense: !!bool maybe\n---\n",
        b'---\nx: !!int ""\n---\n',
        b"---\nx: !!timestamp x\n---\n",
        b"---\nx: 2024-13-01\n---\n",
        b"---\nx:\n" + b"- a\n" * 100_000 + b"---\n",
        b"---\nlicense: mit\n---\n" + b"x" * (5 << 20) + b"\n",
    ],
    ids=lambda raw: ascii(raw[:30]),
)
def test_metadata_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "README.md").write_bytes(raw if raw.endswith(b"\n") else raw + b"\n---\n")
    with pytest.raises(UserError, match=r"README\.md: its metadata .* mend it") as caught:
        read_metadata(tmp_path / "README.md")
    assert "\n" not in str(caught.value)


def test_measured_scores_are_left_out_however_many(tmp_path: Path) -> None:
    scores = "model-index:\n- name: x\n  results:\n" + "  - a: 1\n\n" * 100_000
    card = write_card(tmp_path, f"license: mit\n{scores}language: en")
    assert card_facts(card, None) == {"license": "mit", "language": ["en"]}


def test_a_card_without_metadata_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Only text\n")
    assert read_metadata(tmp_path / "README.md") == {}
    assert read_metadata(tmp_path / "absent.md") == {}


def test_a_directory_of_the_hubs_cache_tells_its_id_and_commit(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    for folder, hub_id in (("models--owner--a.b-1", "owner/a.b-1"), ("models--gpt2", "gpt2")):
        directory = tmp_path / folder / "snapshots" / commit
        directory.mkdir(parents=True)
        assert hub_id_of(directory) == (hub_id, commit)
    other = tmp_path / "models--a--b--c" / "snapshots" / "main"
    other.mkdir(parents=True)
    assert hub_id_of(other) == (None, None)
    assert hub_id_of(tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("repository", "hub_id"),
    [
        ("owner/name", "owner/name"),
        ("https://huggingface.co/owner/name", "owner/name"),
        ("https://github.com/owner/name", None),
        ("https://huggingface.co/owner/name](https://evil.org", None),
        (["owner/name"], None),
    ],
)
def test_a_converted_file_tells_its_repository(
    tmp_path: Path, repository: object, hub_id: str | None
) -> None:
    source = {"file": "tiny-q4.gguf", "repository": repository, "license": "mit"}
    (tmp_path / "regrow_source.json").write_text(json.dumps(source))
    assert hub_id_of(tmp_path) == (hub_id, None)
    assert card_facts(tmp_path, hub_id) == {"license": "mit"}
    assert source_name(tmp_path) == "tiny-q4"
    (tmp_path / "regrow_source.json").write_text(json.dumps({**source, "name": "Tiny\n\x1b1"}))
    assert source_name(tmp_path) == r"Tiny \x1b1"
