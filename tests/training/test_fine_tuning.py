"""A model learns answers to prompts, and a training that was killed goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.objectives.prompt_form import prompt_form
from regrow.objectives.rows.prompt_answers import PromptAnswers, prompt_answers
from regrow.training.fine_tuning import TuningData, check_tuning_settings, fine_tune
from regrow.training.settings import RecoverySettings
from tests.tiny import write_model, write_seq2seq

PAIRS = [([1, 30 + n, 31], [50 + n, 60 - n, 2]) for n in range(3)]
SETTINGS: dict[str, Any] = {
    "tokens": 2_000, "row_length": 24, "batch_tokens": 36, "learning_rate": 0.02,
    "precision": "fp32", "track": (),
}  # fmt: skip


def _pairs(start: int = 0) -> PromptAnswers:
    return prompt_answers(PAIRS, 24, start=start, pad=0)[0]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_answers_are_learned(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    write_model(path) if kind == "decoder" else write_seq2seq(path, OPENBA)
    source = ModelDirectory(path)
    settings = RecoverySettings(**SETTINGS)
    data = TuningData(_pairs(), heldout=_pairs())
    result = fine_tune(source, tmp_path / "place", settings, data, seed=0)
    assert result.heldout_curve[-1][1] < 0.2 < result.curve[0][1]
    tuned = ModelDirectory(tmp_path / "place" / "model")
    form = prompt_form(tuned.tokenizer, tuned.config)
    model = tuned.load()
    for prompt, answer in PAIRS:
        given: dict[str, Any] = {"input_ids": torch.tensor([prompt])}
        if form.decoder_start is not None:
            given["decoder_input_ids"] = torch.tensor([[0]])
        written = model.generate(**given, max_new_tokens=3, do_sample=False)[0].tolist()
        assert written[-3:] == answer


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, lora: Any) -> None:
    source = ModelDirectory(write_model(tmp_path / "model"))
    settings = RecoverySettings(**{**SETTINGS, "tokens": 300, "save_every": 0, "lora": lora})

    class KilledError(Exception):
        pass

    def kill(report: Any) -> None:
        if report.step == 3:
            raise KilledError

    data = TuningData(_pairs())
    with pytest.raises(KilledError):
        fine_tune(source, tmp_path / "killed", settings, data, seed=0, on_step=kill)
    again = fine_tune(source, tmp_path / "killed", settings, data, seed=0)
    fine_tune(source, tmp_path / "whole", settings, data, seed=0)
    assert again.resumed_at == 3
    killed, whole = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("killed", "whole")
    )
    assert killed == whole


@pytest.mark.parametrize(
    "given", [{"objective": "causal"}, {"export_every": 100}, {"track": ["wandb"]}]
)
def test_settings_without_a_meaning_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no meaning for prompts and answers") as error:
        check_tuning_settings(RecoverySettings(**given), is_encoder_decoder=False)
    assert error.value.key == next(iter(given))
    check_tuning_settings(RecoverySettings(prefix="bidirectional"), is_encoder_decoder=False)
    with pytest.raises(UserError, match=r"prefix: an encoder-decoder has no prefix in its rows"):
        check_tuning_settings(RecoverySettings(prefix="bidirectional"), is_encoder_decoder=True)
