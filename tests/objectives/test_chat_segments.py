"""Which tokens of a conversation are an answer's: exact in templates of many styles, or refused."""

from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from regrow.corpus.conversations import Conversation, Turn
from regrow.objectives.chat_segments import InexactError, chat_segments
from regrow.tokenizers.chat_rendering import render_chat
from tests.tiny import sentences

SPECIAL = ("<pad>", "<bos>", "<eos>", "<|start|>", "<|end|>")
EOS = SPECIAL.index("<eos>")
MARKED = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TRIMMED = (
    "<bos>{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<eos>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
IN_WORDS = (
    "<bos>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }}<eos>{% endif %}{% endfor %}"
)
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content.strip() }}\n"
    "{% else %}A: {{ m.content.strip() }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
THOUGHTLESS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</t>')[-1].strip() }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
STYLES: dict[str, tuple[str, Callable[[str], str]]] = {
    "marked": (MARKED, lambda words: f"{words}<|end|>"),
    "trimmed": (TRIMMED, lambda words: f"{words.strip()}<eos>"),
    "in words": (IN_WORDS, lambda words: f" {words.strip()}<eos>"),
}
"""Templates, and the answer that they make of the words of an assistant."""


@cache
def tokenizer(kind: str) -> Any:
    """Byte-level BPE, or BPE with signs for spaces as SentencePiece writes them."""
    if kind == "bytes":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        inner.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(number) for number in range(33, 127)] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    texts = [f"Q: {text}\nA: {text}" for text in sentences(60)]
    inner.train_from_iterator([*texts, *texts, "[INST] it [/INST] it"] * 2, trainer)
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    found.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    return found


def with_template(kind: str, template: str) -> Any:
    found = tokenizer(kind)
    found.chat_template = template
    return found


def talk(*words: str, system: str | None = None) -> Conversation:
    turns = [Turn(("user", "assistant")[n % 2], each) for n, each in enumerate(words)]
    return tuple([Turn("system", system)] if system else []) + tuple(turns)


def rendered(found: Any, conversation: Conversation, *, asks: bool = False) -> str:
    messages = [turn._asdict() for turn in conversation]
    return render_chat(found, messages, add_generation_prompt=asks)


def ids_of(found: Any, text: str) -> list[int]:
    ids: list[int] = found(text, add_special_tokens=False)["input_ids"]
    return ids


def flat(segments: list[Any]) -> list[int]:
    return [token for prompt, answer in segments for token in chain(prompt, answer)]


SPACES = st.sampled_from(["", " ", "  ", "\n"])
WORDS = st.builds("{}r{}e{}".format, SPACES, st.text("abcdeinorst .?!'", max_size=12), SPACES)
"""Also with space around them, which some templates take away."""


@pytest.mark.parametrize("kind", ["bytes", "spaces"])
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15, deadline=None)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_all_answers_and_nothing_else_are_learned(
    style: str, kind: str, pairs: list[tuple[str, str]]
) -> None:
    words = list(chain.from_iterable(pairs))
    template, answer_of = STYLES[style]
    found, conversation = with_template(kind, template), talk(*words)
    (segments,) = chat_segments(found, conversation, EOS)
    whole = rendered(found, conversation)
    tokens = flat(segments)
    assert tokens == ids_of(found, whole)[: len(tokens)]
    assert found.decode(ids_of(found, whole)[len(tokens) :]).strip() == ""
    assert segments[0][0] == ids_of(found, rendered(found, conversation[:1], asks=True))
    answers = [found.decode(answer) for _, answer in segments]
    wanted = [answer_of(each) for each in words[1::2]]
    # A sign for a space at the beginning of a decoded text is dropped.
    strip = str.lstrip if kind == "spaces" else str
    assert [strip(each) for each in answers] == [strip(each) for each in wanted]


@settings(max_examples=25, deadline=None)
@given(words=st.lists(WORDS, min_size=2, max_size=2))
def test_a_space_before_an_answer_is_not_joined_with_it(words: list[str]) -> None:
    """The prompt ends in a space, which tokens of the whole text would join with the answer."""
    found, conversation = with_template("bytes", SPACED), talk(*words)
    (((prompt, answer),),) = chat_segments(found, conversation, EOS)
    assert prompt == ids_of(found, rendered(found, conversation[:1], asks=True))
    assert found.decode([*prompt, *answer]) == rendered(found, conversation) + "<eos>"
    assert answer[-1] == EOS
    assert found.decode(answer[:-1]) == words[1].strip() + "\n"


@pytest.mark.parametrize("words", ["stone", "\nstone", "\n\nstone"])
def test_an_answer_may_begin_with_empty_lines(words: str) -> None:
    """A tokenizer may join line ends, also that which stands before the answer."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\n+|[^\n\p{L}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    found.train_from_iterator(["a\n\nb\n\n\nc " + text for text in sentences(60)], trainer)
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<eos>")
    whole.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    whole.chat_template = MARKED
    conversation = talk("river", words)
    ((prompt, answer),) = next(chat_segments(whole, conversation, EOS))
    assert whole.decode(answer) == f"{words}<|end|>"
    asked = render_chat(whole, [conversation[0]._asdict()], add_generation_prompt=True)
    assert prompt == ids_of(whole, asked)


def test_only_the_last_answer_is_given_an_end_that_the_template_lacks() -> None:
    found = with_template("bytes", SPACED)
    (segments,) = chat_segments(found, talk("a", "b", "c", "d"), EOS)
    assert [found.decode(answer) for _, answer in segments] == ["b\n", "d\n<eos>"]
    assert found.decode(flat(segments)) == "Q: a\nA: b\nQ: c\nA: d\n<eos>"


def test_a_template_that_changes_earlier_turns_gives_a_text_for_each_answer() -> None:
    found = with_template("bytes", THOUGHTLESS)
    conversation = talk("one?", "hm</t>1", "two?", "so</t>2", system="Count.")
    texts = list(chat_segments(found, conversation, EOS))
    assert [[found.decode(answer) for _, answer in text] for text in texts] == [
        ["hm</t>1<|end|>"], ["so</t>2<|end|>"],
    ]  # fmt: skip
    for text, turns in zip(texts, (2, 4), strict=True):
        asked = rendered(found, conversation[:turns], asks=True)
        assert text[0][0] == ids_of(found, asked)
    assert "hm" not in found.decode(texts[1][0][0])
    assert len(list(chat_segments(found, talk("one?", "1", "two?", "2"), EOS))) == 1


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (
            MARKED.replace("assistant\n", "assistant\n<t>"),
            "begins an answer otherwise than it asks",
        ),
        (MARKED.partition("{% if add")[0], "puts a special token into an answer"),
        (MARKED.replace("{% for", "{% set messages = messages[1:] %}{% for"), "of the role system"),
        (MARKED.replace("{{ m.content }}", "{{ m.content[:4] }}"), "leaves out words"),
        (
            "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}",
            "leaves out words of the role system",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(template: str, error: str) -> None:
    found = with_template("bytes", template)
    with pytest.raises(InexactError, match=error):
        list(chat_segments(found, talk("a river", "a stone", system="Be brief."), EOS))


def test_an_answer_that_a_tokenizer_joins_with_its_prompt_is_refused() -> None:
    """Where pieces cannot be tokenised alone, since a space would be put before each."""
    found = with_template("spaces", SPACED)
    with pytest.raises(InexactError, match="joins an answer with what stands before it"):
        list(chat_segments(found, talk("the river", "river"), EOS))


def test_a_template_can_be_that_of_a_directory(tmp_path: Path) -> None:
    found = with_template("bytes", MARKED)
    found.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert list(chat_segments(again, talk("a", "b"), EOS)) == list(
        chat_segments(found, talk("a", "b"), EOS)
    )
