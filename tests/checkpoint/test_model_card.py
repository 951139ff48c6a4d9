"""The card of a result says what was done, by the hub's form, and repeats nobody's markup."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from regrow.architectures.schema import AXIS_KINDS
from regrow.checkpoint.history import Base, Change, History, read_history
from regrow.checkpoint.model_card import _AXES, Scores, TextScores, description, model_card
from regrow.common.errors import UserError

SIZES = {"vocab": 320, "layer": 4}
BASE = Base("tiny", "owner/tiny", "a" * 40, 41_248, SIZES, {"license": "mit", "language": ["en"]})
CUT = Change("cut", "4 -> 3 layers", {"cut": {"layers": 3}}, 33_504, {**SIZES, "layer": 3})
TRAINED = Change(
    "training", "320 tokens; text: manuals", {"recover": {"tokens": 320}}, 33_504, CUT.sizes
)
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def card_of(history: History, config: dict[str, Any] = CONFIG, scores: Scores | None = None) -> Any:
    return ModelCard(model_card(history, config, scores).decode())


def test_the_metadata_is_that_of_the_hub() -> None:
    data = card_of(History(BASE, (CUT, TRAINED))).data.to_dict()
    assert data == {
        "base_model": "owner/tiny", "base_model_relation": "finetune", "license": "mit",
        "language": ["en"], "pipeline_tag": "text-generation", "library_name": "transformers",
        "tags": ["regrow", "pruned"],
    }  # fmt: skip


def test_the_hub_has_no_relation_for_a_cut_alone() -> None:
    data = card_of(History(BASE, (CUT,))).data.to_dict()
    assert data["base_model"] == "owner/tiny"
    assert "base_model_relation" not in data


def test_what_is_not_known_is_left_out() -> None:
    local = replace(BASE, hub_id=None, revision=None, card={})
    card = card_of(History(local, (CUT, TRAINED)))
    assert card.data.to_dict() == {
        "pipeline_tag": "text-generation", "library_name": "transformers",
        "tags": ["regrow", "pruned"],
    }  # fmt: skip
    assert "huggingface.co" not in card.text
    assert "licence" not in card.text.lower()


def test_the_text_names_the_original_all_steps_and_sizes() -> None:
    second = replace(CUT, words="vocabulary 320 -> 300", sizes={"vocab": 300, "layer": 3})
    text = card_of(History(BASE, (CUT, TRAINED, replace(second, parameters=30_000)))).text
    assert "# tiny, pruned to 30.0K parameters" in text
    assert "[owner/tiny](https://huggingface.co/owner/tiny) at commit aaaaaaaaaaaa" in text
    assert "| parameters | 41,248 | 30,000 | −27.3% |" in text  # noqa: RUF001
    assert "| layers | 4 | 3 |" in text
    steps = [line for line in text.splitlines() if line[:3] in ("1. ", "2. ", "3. ")]
    assert [line[3:].partition(":")[0] for line in steps] == ["Cut", "Training", "Cut"]
    assert "320 tokens; text: manuals" in steps[1]
    assert "- cut:\n    layers: 3\n- recover:\n    tokens: 320\n" in text


def test_distillation_is_a_tag() -> None:
    taught = replace(TRAINED, settings={"recover": {"distill": {"from": "original"}}})
    assert card_of(History(BASE, (CUT, taught))).data.tags == ["regrow", "pruned", "distillation"]


def test_steps_that_no_recipe_has_are_in_no_recipe() -> None:
    tagging = replace(TRAINED, words="named entities of a set", settings={})
    text = card_of(History(BASE, (tagging,))).text
    assert "1. Training: named entities of a set." in text
    assert "How it was made" not in text
    text = card_of(History(BASE, (CUT, tagging))).text
    assert "The settings of those steps that a recipe has" in text
    assert "recover" not in text
    assert "The settings of the steps," in card_of(History(BASE, (CUT, TRAINED))).text


def test_random_weights_have_no_base_model_and_no_licence_of_another() -> None:
    card = card_of(History(replace(BASE, random_weights=True), (TRAINED,)))
    assert card.data.get("base_model") is None
    assert card.data.get("license") is None
    assert "Config and tokenizer are those of [owner/tiny]" in card.text


@pytest.mark.parametrize(
    ("config", "auto"),
    [
        (CONFIG, "AutoModelForCausalLM"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
         "AutoModelForSeq2SeqLM"),
        ({"model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True},
         "AutoModelForSeq2SeqLM"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "AutoModelForMaskedLM"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "AutoModel"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
          "vision_config": {}}, "AutoModelForImageTextToText"),
    ],
)  # fmt: skip
def test_the_class_that_loads_it_is_named(config: dict[str, Any], auto: str) -> None:
    text = card_of(History(BASE, (CUT,)), config).text
    assert f"model = {auto}.from_pretrained(path)" in text
    assert "trust_remote_code" not in text


def test_a_network_with_code_of_its_own_is_loaded_with_trust() -> None:
    config = {"model_type": "openba", "architectures": ["OpenBAForConditionalGeneration"]}
    assert (
        "AutoModelForSeq2SeqLM.from_pretrained(path, trust_remote_code=True)"
        in card_of(History(BASE, (CUT,)), config).text
    )


def test_scores_are_a_table_of_what_was_measured() -> None:
    texts = (
        TextScores("manuals", 1.0, 1.5, float("nan")),
        TextScores("a|b", 0.75, 1.25, None),
    )
    text = card_of(History(BASE, (CUT,)), CONFIG, Scores("bits per byte", texts)).text
    assert "| manuals | 1.000 | 1.500 | diverged |" in text
    assert r"| a\|b | 0.750 | 1.250 | – |" in text  # noqa: RUF001
    only_cut = Scores("bits per byte", (TextScores("manuals", 1.0, None, 1.5),))
    text = card_of(History(BASE, (CUT,)), CONFIG, only_cut).text
    assert "| held-out text | original | this model |\n" in text


def test_text_of_others_is_escaped() -> None:
    evil = replace(BASE, name="<img src=x onerror=alert(1)> [a](b)\n# Free", hub_id=None)
    step = replace(CUT, words="x | y\n\n## Fake", settings={"cut": {"by": "a\n```\n# Out"}})
    text = card_of(History(evil, (step,))).text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[0].startswith(r"# \<img src=x")
    assert [each for each in headings if "Fake" in each or "Free" in each] == headings[:1]
    opened = text.index("````yaml")
    assert text.index("# Out") < text.index("````", opened + 8)


def test_the_same_history_gives_the_same_bytes_and_is_read_back(tmp_path: Path) -> None:
    history = History(BASE, (CUT, TRAINED))
    files = description(history, CONFIG)
    assert description(history, CONFIG) == files
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert read_history(tmp_path / "regrow_history.json") == history


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"steps": "none"},
        {"base": None},
        {"base": {**vars(BASE), "hub_id": "https://evil.org"}},
        {"base": {**vars(BASE), "parameters": 0}},
        {"base": {**vars(BASE), "parameters": 10**400}},
        {"base": {**vars(BASE), "sizes": {"layer": "many"}}},
        {"base": {**vars(BASE), "sizes": {"layer": -1}}},
    ],
)
def test_a_damaged_history_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "regrow_history.json"
    files = description(History(BASE, (CUT,)), CONFIG)
    content = json.loads(files[path.name]) | changes
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not the history of a model; remove the file"):
        read_history(path)


def test_a_history_of_others_gives_no_metadata_of_another_form(tmp_path: Path) -> None:
    path = tmp_path / "regrow_history.json"
    content = json.loads(description(History(BASE), CONFIG)[path.name])
    content["base"]["card"] = {"license": "<b>", "language": ["en"], "base_model": "x"}
    path.write_text(json.dumps(content))
    assert read_history(path).base.card == {"language": ["en"]}


def test_every_kind_of_axis_has_a_name() -> None:
    assert _AXES.keys() == {*AXIS_KINDS}
