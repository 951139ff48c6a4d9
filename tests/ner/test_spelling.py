"""Words and tags have the same tokens everywhere, and give the text of the answer."""

from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from regrow.common.errors import UserError
from regrow.ner.answers import read_answer
from regrow.ner.prompts import Question
from regrow.ner.sentences import Sentence
from regrow.ner.spelling import Spelling
from regrow.ner.tags import spans_of_tags
from tests.tiny import add_tokenizer

PIECES = [
    "▁",
    "▁the",
    "a",
    "b",
    "th",
    "(",
    ")",
    "(O",
    "O",
    "B",
    "I",
    "-",
    "x",
    "y",
    "B-",
    "科",
    "技",
]


def _unigram(*more: str, byte_fallback: bool = True) -> Any:
    """A small Unigram tokenizer that puts a space before each text, as SentencePiece does."""
    pieces = [*PIECES, *more, *(f"<0x{number:02X}>" for number in range(256) if byte_fallback)]
    vocab = [("<unk>", 0.0), ("</s>", 0.0), *((piece, -float(len(pieces))) for piece in pieces)]
    inner = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=byte_fallback))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = add_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return transformers.AutoTokenizer.from_pretrained(place)


WORDS = st.sampled_from(
    ["the", "river", "a", "(O)", "科", "技", "ﬁ", "b-x", "é", "))", "\u2028", "\uff21"]
)


@st.composite
def _questions(draw: st.DrawFn) -> Question:
    tokens = draw(st.lists(WORDS, min_size=1, max_size=6))
    tags = draw(
        st.lists(
            st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]),
            min_size=len(tokens),
            max_size=len(tokens),
        )
    )
    joiner = draw(st.sampled_from(["", " "]))
    return Question(Sentence(tuple(tokens), spans_of_tags(tags), joiner), ("x", "y"))


@given(_questions())
def test_the_tokens_of_the_right_answer_are_read_back(question: Question) -> None:
    tokenizer = _unigram()
    text = tokenizer.decode(Spelling(tokenizer).answer(question), skip_special_tokens=True)
    reading = read_answer(text, question)
    assert reading.spans == question.sentence.spans
    assert (reading.missing, reading.unaligned) == (0, 0)


def test_byte_level_tokens_are_read_back(byte_level: Any) -> None:
    sentence = Sentence(("the", "river", "(O)", "科"), spans_of_tags(["O", "B-x", "I-x", "B-y"]))
    question = Question(sentence, ("x", "y"))
    ids = Spelling(byte_level).answer(question)
    assert byte_level.decode(ids) == question.answer
    assert read_answer(byte_level.decode(ids), question).spans == sentence.spans


def test_a_tag_has_the_same_tokens_after_each_word() -> None:
    tokenizer = _unigram()
    tag = Spelling(tokenizer).tag("B-x")
    assert tokenizer.decode(tag) == "(B-x)"
    assert not tokenizer.convert_ids_to_tokens(tag)[0].startswith("▁")


def test_sizes_of_an_answer() -> None:
    spelling = Spelling(_unigram())
    question = Question(Sentence(("a", "b"), spans_of_tags(["B-x", "B-y"])), ("x", "y"))
    usual, most = spelling.answer_sizes(question)
    assert usual < len(spelling.answer(question)) <= most


def test_types_that_the_tokenizer_cannot_tell_apart_are_refused() -> None:
    spelling = Spelling(_unigram(byte_fallback=False))
    assert len(spelling.tags(["x", "y"])) == 5
    with pytest.raises(UserError, match=r"gives the tags \(I-.\) and \(I-.\) the same tokens"):
        spelling.tags(["書", "鳥"])
