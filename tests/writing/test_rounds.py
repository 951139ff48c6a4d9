import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from regrow.common.random_stream import random_stream
from regrow.models.decoding import draw
from regrow.writing import rounds
from regrow.writing.prompts import Start
from regrow.writing.rounds import Sampling, Written, write_round
from regrow.writing.text_form import TextForm
from tests.training.small import EOS, byte_tokenizer, small_model
from tests.writing.test_text_form import CHAT, form_of, ids

SEED = 4


def written(
    form: TextForm,
    starts: Sequence[Start | str | None],
    longest: int = 60,
    seen: set[str] | None = None,
    temperature: float = 1.0,
    model: Any = None,
) -> list[Written]:
    sampling = Sampling(temperature, longest, random_stream(SEED, "test", 0))
    model = model or small_model("llama")
    given = [each if isinstance(each, Start) else Start(each) for each in starts]
    return write_round(model, form, given, sampling, set() if seen is None else seen)


def by_hand(
    form: TextForm,
    start: Sequence[int],
    at: tuple[int, int] = (0, 1),
    longest: int = 60,
    shared: int | None = None,
    temperature: float = 1.0,
) -> list[int]:
    """What the model writes after a start, without a cache and without other rows.

    `at`: the row, and the number of rows. `shared`: tokens before the first step; None takes all of
    the start.
    """
    model, found = small_model("llama"), list(start[:shared])
    random = np.random.Generator(random_stream(SEED, "test", 0))
    while len(found) < longest and found[len(start) :][-1:] not in [[end] for end in form.ends]:
        uniform = random.random(at[1], dtype=np.float32)[at[0]]
        with torch.no_grad():
            logits = model(torch.tensor([found])).logits[:, -1]
        logits[:, form.forbidden] = -torch.inf
        token = int(draw(logits, temperature, torch.tensor([uniform])))
        found.append(start[len(found)] if len(found) < len(start) else token)
    return found[len(start) :]


def with_ends(form: TextForm, ends: set[int]) -> TextForm:
    """The same form with more ends."""
    return TextForm(form.tokenizer, frozenset({EOS, *ends}), form.answer_start)


PROMPTS = ["the cat", "a", "the cat sat on the mat", "x"]


def test_documents_are_continued_from_starts_of_any_length() -> None:
    form = form_of(None)
    found = written(form, PROMPTS)
    for row, (prompt, each) in enumerate(zip(PROMPTS, found, strict=True)):
        new = by_hand(form, form.start(prompt), (row, len(PROMPTS)), shared=1)
        assert len(new) > 30
        assert each == Written(form.document(prompt, [token for token in new if token != EOS]))


@pytest.mark.parametrize(("longest", "temperature"), [(70, 1.0), (120, 1.0), (120, 0.7)])
def test_a_question_is_followed_by_its_answer(longest: int, temperature: float) -> None:
    """A token that the model draws is made an end, so that its first tokens are a question."""
    form = form_of(CHAT)
    start = form.start(None)
    new = by_hand(form, start, temperature=temperature)
    end = next(at for at in range(6, len(new)) if new[at] not in new[:at])
    form, question = with_ends(form, {new[end]}), new[:end]
    answer = by_hand(
        form, [*start, *question, *form.answer_start], (0, 1), longest, len(start), temperature
    )
    is_complete = answer[-1] in form.ends
    text = form.conversation(
        form.question(question), answer[: len(answer) - is_complete], is_complete=is_complete
    )
    assert written(form, [None], longest, temperature=temperature) == [Written(text)]


def test_a_question_that_is_given_is_not_written() -> None:
    form = form_of(CHAT)
    (found,) = written(form, ["Why?"], temperature=0.7)
    new = by_hand(form, form.start("Why?"), temperature=0.7)
    is_complete = new[-1] in form.ends
    answer = new[: len(new) - is_complete]
    assert found == Written(form.conversation("Why?", answer, is_complete=is_complete))


@pytest.mark.parametrize("is_plain", [False, True])
def test_the_model_goes_on_after_the_first_words_of_a_question(is_plain: bool) -> None:
    form, words = form_of(CHAT), "Tell"
    start = form.start(None, words)
    assert start == [*form.start(None), *form.opening(words)]
    new = by_hand(form, start)
    end = next(at for at in range(6, len(new)) if new[at] not in [*new[:at], *start])
    form = with_ends(form, {new[end]})
    question = form.question([*form.opening(words), *new[:end]])
    assert question.startswith("Tell")
    (found,) = written(form, [Start(opening=words, is_plain=is_plain)], 90)
    assert found.text is not None
    before, after = (
        ("", "\n\n") if is_plain else form.conversation("?", [], is_complete=False).split("?")
    )
    assert found.text.startswith(f"{before}{question}{after}")
    assert ("assistant:" in found.text) is not is_plain


def test_questions_with_and_without_an_opening_are_written_together() -> None:
    """Their starts differ in length, and the longer ones are read to their end."""
    form = form_of(CHAT)
    openings = ["", "Tell me", "Why", ""]
    start = form.start(None)
    news = [
        by_hand(form, form.start(None, words), (row, len(openings)), shared=len(start))
        for row, words in enumerate(openings)
    ]
    ends = {token for new in news for token in new[8:9]} - {t for new in news for t in new[:8]}
    assert ends
    found = written(with_ends(form, ends), [Start(opening=words) for words in openings], 90)
    kept = [
        (each.text, words, new)
        for each, words, new in zip(found, openings, news, strict=True)
        if each.text is not None and new[8] in ends
    ]
    assert any(words for _, words, _ in kept)
    for text, words, new in kept:
        question = form.question([*form.opening(words), *new[:8]])
        assert question.startswith(words)
        assert form.conversation(question, [], is_complete=False) in text


def test_an_opening_alone_is_no_question() -> None:
    form = form_of(CHAT)
    (first, *_) = by_hand(form, form.start(None, "Tell"))
    assert first not in form.opening("Tell")
    (found,) = written(with_ends(form, {first}), [Start(opening="Tell")])
    assert found == Written(None, "short")


def test_what_cannot_be_kept_has_a_reason() -> None:
    form = form_of(None)
    new = by_hand(form, form.start("a"), longest=30)
    assert written(with_ends(form, {new[2]}), ["a"]) == [Written(None, "short")]
    assert written(with_ends(form, {new[8]}), ["a"])[0].text == form.document("a", new[:8])
    seen: set[str] = set()
    first, second = (written(form, ["the cat"], seen=seen)[0] for _ in range(2))
    assert first.text is not None
    assert second == Written(None, "duplicate")
    # The question takes all room.
    assert written(form_of(CHAT), [None], longest=20) == [Written(None, "long")]


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_text_that_is_not_wanted_is_dropped_and_not_remembered(template: str | None) -> None:
    form, model, asked = form_of(template), small_model("llama"), list[str]()

    def write(*wanted: str) -> list[Written]:
        def is_wanted(words: str) -> bool:
            asked.append(words)
            return any(word in words for word in wanted)

        sampling = Sampling(1.0, 60, random_stream(SEED, "test", 0))
        starts = [Start("the cat"), Start("the dog")]
        return write_round(model, form, starts, sampling, seen, is_wanted=is_wanted)

    seen: set[str] = set()
    assert write() == [Written(None, "other language")] * 2
    assert not seen
    cat, dog = write("cat")
    assert cat.text is not None
    assert "the cat" in cat.text
    assert dog == Written(None, "other language")
    assert write("cat", "dog")[0] == Written(None, "duplicate")
    assert len(asked) == 6
    assert all(words.startswith("the ") and "assistant:" not in words for words in asked)


def test_a_loop_is_dropped_before_its_end() -> None:
    model = small_model("llama", max_position_embeddings=1024)
    with torch.no_grad():
        model.lm_head.weight[70] = 0
        model.model.norm.weight.mul_(1e-4)  # all tokens are as likely
    form = form_of(None)
    form = TextForm(form.tokenizer, form.ends)
    form.__dict__["forbidden"] = [token for token in range(258) if token != 70]
    steps: list[int] = []
    sampling = Sampling(1.0, 900, random_stream(SEED, "test", 0))
    found = write_round(model, form, [Start("a")], sampling, set(), steps.append)
    assert found == [Written(None, "repetitive")]
    assert len(steps) < 100


def drawn_in_turn(
    monkeypatch: pytest.MonkeyPatch, tokens: Sequence[int | None]
) -> list[tuple[int, float]]:
    """These tokens are drawn, one in each step; None where a given token is read.

    What is drawn, and at which temperature.
    """
    left, found = list(tokens), list[tuple[int, float]]()

    def draw(_: torch.Tensor, temperature: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        token = left.pop(0)
        if token is not None:
            found.append((token, round(temperature.item(), 4)))
        return torch.tensor([token or 0])

    monkeypatch.setattr(rounds, "draw", draw)
    return found


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("A town. It is", "A town."),
        ("A town.\n\nIt is", "A town."),
        ("A town<eos>", "A town"),
        ("B<eos>", "B"),
        ("\u5317\u4eac\u3002\u5b83", "\u5317\u4eac\u3002"),
        ("A town that has so many houses and streets. It", "long"),
        ("\n<eos>", "short"),
        ("They are:\nA town", "short"),
        ("<eos>", "short"),
        ("# A town<eos>", "short"),
        ("- A town<eos>", "short"),
        ("Here they are:<eos>", "short"),
    ],
)
def test_a_brief_answer_is_the_most_likely_first_sentence(
    monkeypatch: pytest.MonkeyPatch, answer: str, result: str, is_plain: bool
) -> None:
    form = form_of(CHAT)
    question = [*ids(" a tow?"), EOS]
    new = [*ids(answer.removesuffix("<eos>")), *([EOS] if answer.endswith("<eos>") else [])]
    script = [*question, *[None] * (len(form.answer_start) - 1), *new]
    drawn = drawn_in_turn(monkeypatch, script)
    start = Start(opening="What is", is_plain=is_plain, is_brief=True)
    (found,) = written(form, [start], 120, temperature=2.0)
    assert [temperature for _, temperature in drawn[: len(question)]] == [1.4] * len(question)
    assert {temperature for _, temperature in drawn[len(question) :]} == {0.2}
    if result in {"long", "short"}:
        assert (found.text, found.reason) == (None, result)
    elif is_plain:
        assert found == Written(f"What is a tow?\n\n{result}")
    else:
        assert found == Written(form.conversation("What is a tow?", ids(result), is_complete=True))


@pytest.mark.parametrize(("longest", "steps"), [(20, 7), (120, 26)])
def test_a_brief_question_is_not_long(
    monkeypatch: pytest.MonkeyPatch, longest: int, steps: int
) -> None:
    """It has 32 tokens at most, with the 7 of its opening; the start of the text has 13."""
    drawn = drawn_in_turn(monkeypatch, ids("abcdefghij" * 9))
    found = written(form_of(CHAT), [Start(opening="What is", is_brief=True)], longest)
    assert found == [Written(None, "long")]
    assert len(drawn) == steps


def test_a_brief_answer_does_not_break_off(monkeypatch: pytest.MonkeyPatch) -> None:
    form = form_of(CHAT)
    script = [*ids(" a tow?"), EOS, *[None] * (len(form.answer_start) - 1), *ids("A town")]
    drawn_in_turn(monkeypatch, script)
    start = Start(opening="What is", is_brief=True)
    longest = len(form.start(None, "What is")) + len(script)
    assert written(form, [start], longest) == [Written(None, "long")]


@pytest.mark.parametrize("is_brief", [False, True])
def test_brief_conversations_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, is_brief: bool
) -> None:
    """Of sixteen texts, two end late."""
    form, calls = form_of(CHAT), 0
    script = [*ids(" a tow?"), EOS, *[0] * (len(form.answer_start) - 1), *ids("A towx"), EOS]

    def draw(logits: torch.Tensor, temperature: Any, __: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        tokens = torch.full([len(logits)], script[min(calls, len(script)) - 1])
        if calls == len(script):
            tokens[-2:] = ids("n")[0]
        return tokens

    monkeypatch.setattr(rounds, "draw", draw)
    starts = [Start(opening="What is", is_brief=is_brief)] * 14 + [
        Start(opening=each, is_brief=is_brief) for each in ("What s ", "Whit is")
    ]
    found = written(form, starts, 120)
    assert calls == len(script) + is_brief
    assert {each.text is None for each in found[-2:]} == {False}


def test_the_last_texts_break_off() -> None:
    """With sixteen rows, two may be left when a round ends."""
    form = with_ends(form_of(None), set(range(200, 256)))
    steps: list[int] = []
    sampling = Sampling(1.0, 100, random_stream(SEED, "test", 0))
    write_round(small_model("llama"), form, [Start("a")] * 16, sampling, set(), steps.append)
    last = steps[-1] - steps[-2]
    assert 0 <= last <= 2
    assert len(steps) < 90


def test_special_tokens_are_never_written() -> None:
    form = form_of(None)
    tokenizer = copy.deepcopy(byte_tokenizer())
    model = small_model("llama")
    with torch.no_grad():  # tied, so <bos> becomes likely
        model.model.embed_tokens.weight[256] *= 8
    hot = written(form, ["a b c"], temperature=5.0, model=model)
    assert hot[0].text is not None
    assert "<bos>" not in tokenizer.decode(ids(hot[0].text))


def test_a_special_token_may_have_no_row_in_the_head() -> None:
    """As the one of images in the text models of Gemma 3."""
    form = form_of(None)
    before = written(form, PROMPTS)
    form.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert len(form.tokenizer) == 259
    assert written(TextForm(form.tokenizer, form.ends), PROMPTS) == before


@pytest.mark.parametrize("number", [0, 3])
def test_a_text_does_not_depend_on_the_others(number: int) -> None:
    form = form_of(None)
    found = written(form, [*PROMPTS])
    others = [each if at == number else "snow" for at, each in enumerate(PROMPTS)]
    assert written(form, others)[number] == found[number]
