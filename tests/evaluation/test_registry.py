"""Every evaluation by its name: a result that JSON can hold."""

import json
from pathlib import Path

import pytest
import torch

from regrow.evaluation.heldout_text import HeldoutText
from regrow.evaluation.registry import EVALUATIONS, EvaluationData, evaluate
from regrow.models.loading import load_model, load_tokenizer
from tests.tiny import sentences, write_model, write_text

torch.set_num_threads(1)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_result_is_json(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "m")
    write_text(tmp_path / "prose.jsonl", sentences(5))
    data = EvaluationData(
        {"prose": HeldoutText(tmp_path / "prose.jsonl")}, ("The river", "Snow"), 3
    )
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    result = evaluate(name, model, tokenizer, data)
    assert json.loads(json.dumps(result)) == result
    assert evaluate(name, model, tokenizer, data) == result


def test_texts_and_prompts_are_all_read(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    for name in ("prose", "code"):
        write_text(tmp_path / f"{name}.jsonl", sentences(3))
    texts = {name: HeldoutText(tmp_path / f"{name}.jsonl") for name in ("prose", "code")}
    data = EvaluationData(texts, ("The river", "Snow"), 2)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    losses = evaluate("heldout", model, tokenizer, data)
    assert losses.keys() == texts.keys()
    assert losses["prose"] == losses["code"]
    answers = evaluate("answers", model, tokenizer, data)
    assert len(answers) == 2
    assert all(answer.endswith(" …") for answer in answers)  # two tokens are not the end
