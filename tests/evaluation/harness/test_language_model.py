"""Answers are compared with those of lm-eval's own `hf`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.evaluation.harness.decoder_scores import decoder_scores
from regrow.evaluation.harness.language_model import RegrowModel
from regrow.evaluation.harness.responses import Responses
from regrow.evaluation.harness.scores import Computing
from regrow.models.loading import load_tokenizer
from tests.tiny import add_tokenizer, sentences, write_model, write_seq2seq, write_tiny

QUESTIONS = sentences(6, seed=3)
OPTIONS = [" river stone", " salt", " the bridge over water", " 4"]
TIED = 1
"""The tiny T5 with a tied head. `hf` ties the head also of a model whose head is its own."""
PAIRS = [(question, option) for question in QUESTIONS for option in OPTIONS]
PAIRS += [("ends with a space ", "and goes on"), ("", " without a context"), PAIRS[0]]


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(kind, {}, each, 0, ("a task", number, 1)) for number, each in enumerate(arguments)
    ]


def hf(directory: Path, **options: Any) -> Any:
    return HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=4, **options)


def decoder(name: str, out: Path) -> Path:
    if name == "llama":
        return write_model(out)
    return add_tokenizer(write_tiny(GPT_NEOX, out, vocab_size=320), 320)


def check_equal(ours: list[tuple[float, bool]], own: list[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in own]
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in own], rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
@pytest.mark.parametrize("shares", [True, False])
def test_scores_of_a_decoder(name: str, shares: bool, tmp_path: Path) -> None:
    directory = decoder(name, tmp_path / "m")
    ours = RegrowModel(directory, precision="fp32", batch_tokens=200)
    assert ours.shares
    ours.__dict__["shares"] = shares
    given = requests("loglikelihood", PAIRS)
    check_equal(ours.loglikelihood(given), hf(directory).loglikelihood(given, disable_tqdm=True))


def test_a_log_likelihood_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Also one that an earlier version kept."""
    ours = RegrowModel(write_model(tmp_path / "m"), precision="fp32")
    with torch.no_grad():
        ours.model.model.norm.weight[0] = float("nan")
    with Responses(tmp_path / "cache") as ours.responses:
        for _ in range(2):
            with pytest.raises(UserError, match=r"/m: a log-likelihood is not a number"):
                ours.loglikelihood(requests("loglikelihood", PAIRS))
            with pytest.raises(UserError, match=r"/m: a log-likelihood is not a number"):
                ours.loglikelihood_rolling(requests("loglikelihood_rolling", [(QUESTIONS[0],)]))


def test_a_context_that_several_options_share_is_read_once(tmp_path: Path) -> None:
    ours = RegrowModel(write_model(tmp_path / "m"), precision="fp32")
    assert ours.shares
    read: list[int] = []
    ours.model.get_input_embeddings().register_forward_hook(
        lambda _, given, out: read.append(given[0].numel())
    )
    context = " ".join(sentences(3))
    tokens = len(ours.tokenizer(context)["input_ids"])
    ours.loglikelihood(requests("loglikelihood", [(context, option) for option in OPTIONS]))
    assert tokens < sum(read) < 2 * tokens


@pytest.mark.parametrize("window", [8, 16])
def test_a_model_with_a_sliding_window_shares_no_long_context(tmp_path: Path, window: int) -> None:
    out = write_tiny(MISTRAL, tmp_path / "m", vocab_size=320, sliding_window=window)
    directory = add_tokenizer(out, 320)
    # Questions that share a row stand beside those that are longer than the window.
    short = [("a", option) for option in (" 4", " 5", " b")]
    given = requests("loglikelihood", PAIRS + short)
    ours = RegrowModel(directory, precision="fp32")
    assert ours.shares
    check_equal(ours.loglikelihood(given), hf(directory).loglikelihood(given, disable_tqdm=True))


def test_a_prompt_that_is_too_long_loses_its_beginning_and_is_counted(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", max_position_embeddings=24)
    given = requests("loglikelihood", PAIRS)
    ours = RegrowModel(directory, precision="fp32")
    check_equal(ours.loglikelihood(given), hf(directory).loglikelihood(given, disable_tqdm=True))
    long = {text for text in PAIRS if len(ours.tokenizer("".join(text))["input_ids"]) > 25}
    assert 0 < ours.shortened_of(given) == sum(each in long for each in PAIRS)


def test_of_an_option_that_is_longer_than_the_window_the_end_is_scored(tmp_path: Path) -> None:
    ours = RegrowModel(write_model(tmp_path / "m"), precision="fp32", max_length=16)
    (end,) = ours.encoding.texts([" river stone salt bridge" * 4])
    assert len(end) > 17
    how = Computing(16, 2_048, "fp32", shares=True)
    (found,) = decoder_scores(ours.model, [((1, 2, 3), tuple(end))], how)
    (score,) = found.values()
    assert score.tokens == 16


@pytest.mark.parametrize("shares", [True, False])
def test_scores_of_an_encoder_decoder(shares: bool, tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", T5, number=TIED)
    ours = RegrowModel(directory, precision="fp32", batch_tokens=200)
    assert ours.shares
    ours.__dict__["shares"] = shares
    given = requests("loglikelihood", PAIRS)
    own = hf(directory, backend="seq2seq").loglikelihood(given, disable_tqdm=True)
    check_equal(ours.loglikelihood(given), own)


def test_the_encoder_reads_a_question_once(tmp_path: Path) -> None:
    ours = RegrowModel(write_seq2seq(tmp_path / "m", T5, number=TIED), precision="fp32")
    assert ours.shares
    read: list[int] = []
    ours.model.get_encoder().register_forward_hook(
        lambda _, __, out: read.append(out.last_hidden_state.shape[0])
    )
    ours.loglikelihood(requests("loglikelihood", PAIRS[:8]))
    assert sum(read) == 2


def test_an_openba_reads_its_own_form_of_a_prompt(tmp_path: Path) -> None:
    """Compared with the network, called by hand."""
    directory = write_seq2seq(tmp_path / "m", OPENBA, vocab_size=340)
    with_modes(directory)
    ours = RegrowModel(directory, precision="fp32")
    assert ours.max_length == ours.directory.config.max_seq_length
    found = ours.loglikelihood(requests("loglikelihood", PAIRS[:8]))
    tokenizer, model = ours.tokenizer, ours.model
    mode, sentinel = (tokenizer.convert_tokens_to_ids(name) for name in ("<S>", "<extra_id_0>"))
    for (question, option), (nats, greedy) in zip(PAIRS[:8], found, strict=True):
        read = [mode, *tokenizer(question)["input_ids"], sentinel, 2]
        ids = tokenizer(option)["input_ids"]
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([read]),
                decoder_input_ids=torch.tensor([[0, sentinel, *ids[:-1]]]),
            ).logits[0, 1:]
        each = logits.log_softmax(-1)[range(len(ids)), ids]
        assert nats == pytest.approx(each.sum().item(), rel=1e-5)
        assert greedy == (logits.argmax(-1).tolist() == ids)


def test_a_prompt_of_an_openba_that_is_too_long_keeps_its_mode(tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", OPENBA, vocab_size=340)
    with_modes(directory)
    ours = RegrowModel(directory, precision="fp32", max_length=12)
    tokenizer = ours.tokenizer
    mode, sentinel = (tokenizer.convert_tokens_to_ids(name) for name in ("<S>", "<extra_id_0>"))
    question = " ".join(QUESTIONS)
    expected = [mode, *tokenizer(question)["input_ids"][-9:], sentinel, tokenizer.eos_token_id]
    read: list[list[int]] = []
    assert ours.shares
    ours.model.get_encoder().register_forward_pre_hook(
        lambda _, __, options: read.extend(options["input_ids"].tolist()), with_kwargs=True
    )
    ours.loglikelihood(requests("loglikelihood", [(question, " salt")]))
    ours.generate_until(requests("generate_until", [(question, {"max_gen_toks": 2})]))
    assert read == [expected, expected]


def with_modes(directory: Path) -> None:
    """Give a tokenizer UL2's `<S>`."""
    tokenizer = load_tokenizer(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<S>"]})
    tokenizer.save_pretrained(directory)


def test_a_tokenizer_without_sentinels_is_refused(tmp_path: Path) -> None:
    directory = write_seq2seq(tmp_path / "m", T5, number=TIED)
    add_tokenizer(directory)
    with_modes(directory)
    with pytest.raises(UserError, match="the tokenizer has no <extra_id_0>"):
        RegrowModel(directory)
    RegrowModel(directory, prompt="plain")


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_log_likelihoods_of_texts(kind: str, tmp_path: Path) -> None:
    if kind == "decoder":
        directory, backend = write_model(tmp_path / "m"), "causal"
    else:
        directory, backend = write_seq2seq(tmp_path / "m", T5, number=TIED), "seq2seq"
    given = requests("loglikelihood_rolling", [(text,) for text in [*sentences(3), "a"]])
    ours = RegrowModel(directory, precision="fp32", max_length=16)
    own = hf(directory, backend=backend, max_length=16).loglikelihood_rolling(
        given, disable_tqdm=True
    )
    assert ours.loglikelihood_rolling(given) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_generated_texts(kind: str, tmp_path: Path) -> None:
    seq2seq = kind == "encoder-decoder"
    directory = (
        write_seq2seq(tmp_path / "m", T5, number=TIED) if seq2seq else write_model(tmp_path / "m")
    )
    settings = {"until": ["e"], "max_gen_toks": 12, "do_sample": False}
    longer = {**settings, "until": ["\n\n"], "max_gen_toks": 5}
    given = requests(
        "generate_until",
        [(text, how) for text in QUESTIONS[:3] for how in (settings, longer)],
    )
    own = hf(directory, backend="seq2seq" if seq2seq else "causal")
    expected = own.generate_until(given, disable_tqdm=True)
    found = RegrowModel(directory, precision="fp32").generate_until(given)
    if seq2seq:  # there, `hf` adds the length of the prompt to the tokens that are wanted
        expected = [own[: len(text)] for own, text in zip(expected, found, strict=True)]
    assert found == expected
    assert len(found[0]) > len(found[1]) or found[0] != found[1]
    assert any(expected)


def test_generated_texts_follow_the_models_own_settings(tmp_path: Path) -> None:
    """End tokens beside that of the tokenizer, and tokens that are never written."""
    directory = write_model(tmp_path / "m")
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    given = requests("generate_until", [(QUESTIONS[0], settings)])

    def answer() -> str:
        return RegrowModel(directory, precision="fp32").generate_until(given)[0]

    plain = answer()
    tokenizer = load_tokenizer(directory)
    first, *_, last = tokenizer(plain, add_special_tokens=False)["input_ids"]
    path = directory / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, last], "suppress_tokens": [first]}))
    found = answer()
    assert found != plain
    assert [found] == hf(directory).generate_until(given, disable_tqdm=True)
    path.write_text(json.dumps({"eos_token_id": [2, last]}))
    assert len(answer()) < len(plain)


def test_answers_that_are_drawn_differ_and_do_not_depend_on_each_other(tmp_path: Path) -> None:
    """lm-eval asks `repeats` times with the same request."""
    directory = write_model(tmp_path / "m")
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    given = [
        request
        for request in requests("generate_until", [(text, settings) for text in QUESTIONS[:2]])
        for _ in range(3)
    ]
    torch.manual_seed(1)
    expected_noise = torch.rand(1)
    torch.manual_seed(1)
    whole = RegrowModel(directory, precision="fp32").generate_until(given)
    assert torch.equal(torch.rand(1), expected_noise), "the random numbers of others stay"
    assert len(set(whole)) == len(whole)
    second = RegrowModel(directory, precision="fp32")
    with Responses(tmp_path / "answers") as second.responses:
        assert second.generate_until(given[:2]) == whole[:2]
        assert second.generate_until(given) == whole
        assert (second.computed, second.cached) == (6, 2)
    greedy = {"until": [], "max_gen_toks": 8}
    same = requests("generate_until", [(QUESTIONS[0], greedy)]) * 3
    third = RegrowModel(directory, precision="fp32")
    assert len(set(third.generate_until(same))) == 1
    assert third.computed == 1


def test_what_was_answered_before_is_not_computed_again(tmp_path: Path) -> None:
    """Also after a kill in the middle of a line."""
    directory = write_model(tmp_path / "m")
    given = requests("loglikelihood", PAIRS)
    first = RegrowModel(directory, precision="fp32", batch_tokens=100)
    whole = first.loglikelihood(given)
    with Responses(tmp_path / "answers") as answers:
        first.responses = answers
        first.loglikelihood(given[:10])
    file = tmp_path / "answers" / "a task.jsonl"
    with file.open("ab") as half:
        half.write(file.read_bytes()[:30])
    second = RegrowModel(directory, precision="fp32", batch_tokens=100)
    with Responses(tmp_path / "answers") as answers:
        second.responses = answers
        second.loglikelihood(given[:10])
        assert "model" not in vars(second), "all answers were there, but the weights were loaded"
        check_equal(second.loglikelihood(given), whole)
    assert len(file.read_text().splitlines()) == len(set(PAIRS))


def test_lm_eval_knows_the_model(tmp_path: Path) -> None:
    found = get_model("regrow").create_from_arg_string(
        f"pretrained={write_model(tmp_path / 'm')},precision=fp32", {"batch_size": 1}
    )
    assert isinstance(found, RegrowModel)
    with pytest.raises(UserError, match="parallelize: regrow's model has no such argument"):
        get_model("regrow")(pretrained=tmp_path / "m", parallelize=True)
