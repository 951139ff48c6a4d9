"""What is learned from a teacher is the plain formula, and no logits are held whole for it."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from torch.utils._python_dispatch import TorchDispatchMode

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.distillation import (
    Distilled,
    Predictions,
    Taught,
    Teacher,
    summed_distillation,
)
from regrow.objectives.losses.head import Head
from regrow.objectives.losses.loss import TokenLoss
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.losses.student_tokens import StudentTokens
from regrow.objectives.rows.span_corruption import corrupt_text
from tests.tiny import sentences, write_seq2seq
from tests.training.small import byte_tokenizer, small_model


def plain(
    logits: Tensor, targets: Tensor, told: Tensor, weight: float, temperature: float
) -> Tensor:
    """The loss from all logits at once."""
    logits, told = logits.double(), told.detach().double()
    divergence = kl_div(
        torch.log_softmax(logits / temperature, -1),
        torch.log_softmax(told / temperature, -1),
        reduction="sum",
        log_target=True,
    )
    text = cross_entropy(logits, targets, reduction="sum")
    return (1 - weight) * text + weight * temperature**2 * divergence


def draw_head(draw: Any, vocab: int, hidden: int, *, bias: bool, **shape: Any) -> Head:
    given = {"input_scale": 1.0, "scale": 1.0, "softcap": None, **shape}
    return Head(weight=draw(vocab, hidden), bias=draw(vocab) if bias else None, **given)


def drawer(seed: int, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


_SHAPES = st.fixed_dictionaries(
    {
        "input_scale": st.sampled_from([1.0, 0.5]),
        "scale": st.sampled_from([1.0, 0.3]),
        "softcap": st.sampled_from([None, 2.0]),
        "bias": st.booleans(),
    }
)


def spelled(vocab: int) -> tuple[StudentTokens, int]:
    """Tokens of a student in a larger vocabulary, and its size: half of its tokens spell one."""
    pieces = {vocab + at: (at, vocab - 1) for at in range(0, vocab, 2)}
    return StudentTokens(torch.arange(vocab), pieces), 2 * vocab


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(0, 9),
    vocab=st.integers(1, 12),
    weight=st.sampled_from([0.3, 1.0]),
    temperature=st.sampled_from([0.7, 1.0, 4.0]),
    logits_at_once=st.integers(1, 120),
)
def test_where_a_teacher_says_nothing_only_the_text_is_learned(
    seed: int, tokens: int, vocab: int, weight: float, temperature: float, logits_at_once: int
) -> None:
    draw = drawer(seed, torch.float64)
    is_told = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) < 0.6
    mine, count = spelled(vocab)
    hidden, told = draw(tokens, 6), draw(int(is_told.sum()), 4)
    head = draw_head(draw, vocab, 6, bias=True)
    other = draw_head(draw, count, 4, bias=True, softcap=2.0)
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))
    ours, each = summed_distillation(
        Predictions(hidden, head), Taught(Predictions(told, other), is_told, mine), targets,
        weight=weight, temperature=temperature, logits_at_once=logits_at_once,
    )  # fmt: skip
    whole = torch.softmax(other.logits(told).detach(), -1)
    left = whole[:, :vocab].clone()
    for token, (first, _) in mine.pieces.items():
        left[:, first] += whole[:, token]
    logits = head.logits(hidden)
    theirs = plain(logits[is_told], targets[is_told], left.log(), weight, temperature)
    theirs = theirs + cross_entropy(logits[~is_told], targets[~is_told], reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(each.sum(), theirs, rtol=1e-9, atol=1e-9)
    inputs = [hidden, head.weight, head.bias]
    assert head.bias is not None
    for one, expected in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(one, expected, rtol=1e-8, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(0, 9),
    vocab=st.integers(1, 12),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.7, 1.0, 4.0]),
    student=_SHAPES,
    teacher=_SHAPES,
    logits_at_once=st.integers(1, 120),
)
def test_value_and_gradients_are_those_of_all_logits(
    seed: int,
    tokens: int,
    vocab: int,
    weight: float,
    temperature: float,
    student: dict[str, Any],
    teacher: dict[str, Any],
    logits_at_once: int,
) -> None:
    draw = drawer(seed, torch.float64)
    hidden, told = draw(tokens, 6), draw(tokens, 4)
    head, other = draw_head(draw, vocab, 6, **student), draw_head(draw, vocab, 4, **teacher)
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))
    ours, each = summed_distillation(
        Predictions(hidden, head), Taught(Predictions(told, other)), targets,
        weight=weight, temperature=temperature, logits_at_once=logits_at_once,
    )  # fmt: skip
    theirs = plain(head.logits(hidden), targets, other.logits(told), weight, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    one_by_one = [
        plain(
            head.logits(hidden[[place]]), targets[[place]], other.logits(told[[place]]),
            weight, temperature,
        )
        for place in range(tokens)
    ]  # fmt: skip
    singly = [loss.item() for loss in one_by_one]
    assert each.tolist() == pytest.approx(singly, rel=1e-9, abs=1e-9)
    inputs = [hidden, head.weight] + ([] if head.bias is None else [head.bias])
    for one, expected in zip(
        torch.autograd.grad(ours * 0.7, inputs),
        torch.autograd.grad(theirs * 0.7, inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-10)
    ours, _ = summed_distillation(
        Predictions(hidden, head),
        Taught(Predictions(told, other)),
        targets,
        weight=weight,
        temperature=temperature,
    )
    assert all(
        gradient is None
        for gradient in torch.autograd.grad(ours, [told, other.weight], allow_unused=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_autocast_keeps_all_but_the_products_in_float32(temperature: float) -> None:
    draw = drawer(0, torch.float32)
    hidden, head = draw(64, 6), draw_head(draw, 300, 6, bias=True)
    told, other = draw(64, 4).bfloat16(), draw_head(draw, 300, 4, bias=True)
    other = replace(other, weight=other.weight.bfloat16())
    targets = torch.arange(64)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = summed_distillation(
            Predictions(hidden, head), Taught(Predictions(told, other)), targets,
            weight=0.5, temperature=temperature, logits_at_once=6000,
        )  # fmt: skip
    as_read = replace(other, weight=other.weight.float()).logits(told.float())
    theirs = plain(head.logits(hidden), targets, as_read, 0.5, temperature)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=3e-3, atol=0)
    assert head.bias is not None
    inputs = [hidden, head.weight, head.bias]
    found, expected = torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs)
    for one, wanted in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - wanted).norm() < 2e-2 * wanted.norm()


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest tensor that was made, and of all that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = self.most = self.now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            storage = out.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._add(storage, storage.nbytes() // out.element_size())
            self.largest = max(self.largest, out.numel())
        return out

    def _add(self, storage: Any, elements: int) -> None:
        place = storage.data_ptr()
        self._seen.add(place)
        self.now += elements
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._seen.discard(place)
            self.now -= elements

        weakref.finalize(storage, gone)


@pytest.mark.parametrize("is_spelled", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_logits_of_neither_model_are_held_whole(temperature: float, is_spelled: bool) -> None:
    tokens, vocab = 400, 100
    mine, count = spelled(vocab) if is_spelled else (None, vocab)
    is_told = torch.arange(tokens) % 8 > 0 if is_spelled else torch.ones(tokens, dtype=torch.bool)
    draw = drawer(0, torch.float32)
    hidden, head = draw(tokens, 6), draw_head(draw, vocab, 6, bias=False, softcap=3.0)
    told, other = draw(int(is_told.sum()), 4), draw_head(draw, count, 4, bias=False)
    targets = torch.arange(tokens) % vocab
    with _Alive() as ours:
        summed_distillation(
            Predictions(hidden, head),
            Taught(Predictions(told, other), is_told if is_spelled else None, mine),
            targets,
            weight=0.5,
            temperature=temperature,
            logits_at_once=2000,
        )[0].backward()  # type: ignore[no-untyped-call]
    with _Alive() as theirs:
        plain(head.logits(hidden), targets, head.logits(hidden), 0.5, temperature)
    assert theirs.largest == tokens * vocab
    # The states and their gradient are the largest things left; of logits there are some blocks.
    assert ours.largest <= tokens * 6
    assert ours.most < 20 * 1000 < tokens * vocab < theirs.most


def case(kind: str, tmp_path: Path) -> tuple[TokenLoss, Any, Any, dict[str, Tensor]]:
    """An objective, a student, a larger teacher, and a batch."""
    if kind == "causal":
        packed = pack(["a", "a longer document", "bc", "the end"], byte_tokenizer(), 12)
        arrays = packed.batch(np.arange(len(packed)))
        student = small_model("gemma2")
        teacher = small_model("gemma2", seed=1, hidden_size=32, num_hidden_layers=3)
        objective: TokenLoss = Causal()
    else:
        write_seq2seq(tmp_path / "m", T5)
        write_seq2seq(tmp_path / "teacher", T5, num_layers=3)
        student, teacher = load_model(tmp_path / "m"), load_model(tmp_path / "teacher")
        tokenizer = load_tokenizer(tmp_path / "m")
        samples = corrupt_text(sentences(3), tokenizer, student.config, 24, seed=3)
        arrays = samples.batch(np.arange(len(samples)), np.arange(len(samples)))
        objective = Seq2Seq()
    return objective, student, teacher, {n: torch.from_numpy(a) for n, a in arrays.items()}


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_model_learns_from_another_what_the_formula_says(kind: str, tmp_path: Path) -> None:
    objective, student, teacher, batch = case(kind, tmp_path)
    distilled = Distilled(objective, Teacher(teacher, None, "it"), weight=0.4, temperature=2.0)
    distilled.check(student)
    loss, each = distilled(student, batch)

    predicts = batch["labels"] != NOT_PREDICTED
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        told = teacher(**inputs, use_cache=False).logits[predicts]
    logits = student(**inputs, use_cache=False).logits[predicts]
    expected = plain(logits, batch["labels"][predicts], told, 0.4, 2.0)
    assert len(each) == len(told)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    parameters = list(student.parameters())
    for one, wanted in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters),
        strict=True,
    ):  # fmt: skip
        assert (one - wanted).norm() <= 1e-4 * wanted.norm()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_comes_to_say_what_its_teacher_says() -> None:
    student, teacher = small_model("llama"), small_model("llama", seed=1)
    batch = {
        "input_ids": torch.arange(40)[None],
        "position_ids": torch.arange(40)[None],
        "labels": torch.arange(1, 41)[None],
    }
    distilled = Distilled(Causal(), Teacher(teacher, None, "it"), weight=1.0, temperature=1.0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.03, weight_decay=0.0)
    losses = []
    for _ in range(60):
        loss, each = distilled(student, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / len(each))
    assert losses[-1] < 0.1 * losses[0]


def test_a_teacher_reads_old_numbers_and_says_what_is_left() -> None:
    """As if all other tokens of the teacher could not be."""
    rows = torch.tensor([0, 3, 4, 7, 200, 256, 257])
    student = small_model("llama", vocab_size=len(rows), bos_token_id=5, eos_token_id=6)
    teacher = small_model("llama", seed=1)
    batch = {
        "input_ids": torch.tensor([[6, 1, 2, 3, 6, 4]]),
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1]]),
        "labels": torch.tensor([[1, 2, 3, 6, 4, NOT_PREDICTED]]),
    }
    distilled = Distilled(
        Causal(), Teacher(teacher, StudentTokens(rows, {}), "it"), weight=1.0, temperature=1.0
    )
    distilled.check(student)
    loss, each = distilled(student, batch)
    assert len(each) == 5

    given: dict[str, Any] = {"position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad():
        whole = torch.softmax(teacher(rows[batch["input_ids"]], **given).logits[0, :5], -1)
    left = whole[:, rows] / whole[:, rows].sum(-1, keepdim=True)
    assert whole[:, rows].sum(-1).max() < 0.5
    logs = torch.log_softmax(student(batch["input_ids"], **given).logits[0, :5], -1)
    expected = (left * (left.log() - logs)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_that_lacks_tokens_is_refused() -> None:
    student = small_model("llama", vocab_size=260)
    for tokens in (None, StudentTokens(torch.arange(258), {})):
        distilled = Distilled(Causal(), Teacher(small_model("llama"), tokens, "it"), 0.5, 1.0)
        with pytest.raises(UserError, match="the student has 260 tokens, its teacher knows 258"):
            distilled.check(student)


def test_what_is_learned_says_from_whom() -> None:
    model = small_model("llama")
    teacher = Teacher(model, None, "a hash")
    identities = {
        Distilled(Causal(), teacher, weight, temperature).identity
        for weight, temperature in [(0.5, 1.0), (0.25, 1.0), (0.5, 2.0)]
    }
    other = Distilled(Causal(), Teacher(model, None, "another"), 0.5, 1.0).identity
    assert len(identities | {other, Causal().identity}) == 5
