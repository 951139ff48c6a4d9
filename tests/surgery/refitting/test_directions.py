"""The principal directions in which Adam updates the matrices of a layer."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regrow.common.precision import autocast
from regrow.surgery.refitting import layer_training
from regrow.surgery.refitting.directions import principal_directions, turned, turned_back
from regrow.surgery.refitting.layer_training import train_layer

torch.set_num_threads(1)

WIDTH, INNER, TOKENS, BATCHES = 6, 10, 24, 8


class TinyLayer(nn.Module):
    """Two matrices that read the same inputs, and one that reads what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, INNER, bias=False)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        inner: Tensor = torch.tanh(self.gate(stream)) * self.up(stream)
        written: Tensor = self.down(inner)
        return written


def layer_fit(layer: nn.Module) -> Any:
    """As the fit of a layer whose inputs are the stream itself."""
    calls = [lambda module, stream: module(stream)] * BATCHES
    texts = [torch.ones(1, TOKENS, dtype=torch.bool)] * BATCHES
    return SimpleNamespace(
        layer=layer, calls=calls, texts=texts, unseen=range(BATCHES - 1, BATCHES),
        through=lambda streams: [layer(each).detach() for each in streams],
    )  # fmt: skip


def uneven_streams(seed: int) -> list[Tensor]:
    """Streams that vary a hundred times as much in one direction as in another."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    sizes = torch.logspace(-1, 1, WIDTH)[:, None] * mixed
    return [torch.randn(1, TOKENS, WIDTH, generator=random) @ sizes for _ in range(BATCHES)]


@given(st.integers(0, 1 << 20))
def test_inputs_do_not_covary_along_their_principal_directions(seed: int) -> None:
    torch.manual_seed(seed)
    layer, streams = TinyLayer(), uneven_streams(seed)
    with torch.no_grad():
        fit, batches = layer_fit(layer), range(0, BATCHES, 2)
        found = principal_directions(fit, streams, batches, most=INNER)
        narrow = principal_directions(fit, streams, batches, most=WIDTH)
    assert narrow.keys() == {id(each.weight) for each in (layer.gate, layer.up)}
    assert found.keys() == {id(each.weight) for each in (layer.gate, layer.up, layer.down)}
    assert found[id(layer.gate.weight)] is found[id(layer.up.weight)]
    rows = torch.cat(streams[::2]).reshape(-1, WIDTH).double()
    with torch.no_grad():
        inner = torch.tanh(layer.gate(rows.float())) * layer.up(rows.float())
    for weight, inputs in ((layer.gate.weight, rows), (layer.down.weight, inner.double())):
        along = inputs @ found[id(weight)].double()
        moments = along.T @ along
        beside = moments - moments.diag().diag()
        assert beside.abs().max() < 1e-5 * moments.diagonal().max()


def test_padding_has_no_part_in_the_directions() -> None:
    layer, streams = TinyLayer(), uneven_streams(0)
    fit, batches = layer_fit(layer), range(BATCHES)
    with torch.no_grad():
        expected = principal_directions(fit, streams, batches, most=INNER)
        padding = 100 * torch.randn(1, 5, WIDTH)
        fit.texts = [torch.arange(TOKENS + 5)[None] < TOKENS] * BATCHES
        padded = [torch.cat([each, padding], dim=1) for each in streams]
        found = principal_directions(fit, padded, batches, most=INNER)
    for weight, each in expected.items():
        assert torch.allclose(found[weight], each, atol=1e-4)


@given(st.integers(0, 1 << 20), st.booleans())
def test_what_is_turned_back_is_as_it_was(seed: int, is_turned: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 5, generator=random)
    directions = torch.linalg.qr(torch.randn(5, 5, generator=random)).Q if is_turned else None
    assert torch.allclose(turned_back(turned(values, directions), directions), values, atol=1e-5)


def test_an_error_that_is_not_finite_trains_nothing() -> None:
    layer, streams = TinyLayer(), uneven_streams(0)
    with torch.no_grad():
        layer.down.weight[0, 0] = torch.nan
        fit = layer_fit(layer)
        assert train_layer(fit, streams, fit.through(streams), streams, passes=1) is None


def test_bf16_rounds_changes_of_weights_and_neither_gradients_nor_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is rounded of a gradient along a large direction is noise along the small ones."""
    torch.manual_seed(0)
    layer, wanted, streams = TinyLayer(), TinyLayer(), uneven_streams(0)
    before = {each.data_ptr(): each.detach().clone() for each in layer.parameters()}
    small = 0.1 * min(float(each.norm()) for each in before.values())
    rounded: dict[str, list[bool]] = {"turned": [], "turned_back": []}
    for name, calls in rounded.items():
        real = getattr(layer_training, name)

        def noting(values: Tensor, along: Any, real: Any = real, calls: Any = calls) -> Tensor:
            calls.append(torch.is_autocast_enabled("cpu"))
            found: Tensor = real(values, along)
            assert found.dtype == torch.float32
            assert real is turned or not calls[-1] or values.norm() < small
            return found

        monkeypatch.setattr(layer_training, name, noting)
    with torch.no_grad(), autocast("bf16", torch.device("cpu"), cache=False):
        target = [wanted(each).float() for each in streams]
        fit = layer_fit(layer)
        behind = [each.float() for each in fit.through(streams)]
        assert train_layer(fit, streams, behind, target, passes=30) is not None
    assert not any(rounded["turned"])
    last = len(before)
    assert all(rounded["turned_back"][:-last])
    assert not any(rounded["turned_back"][-last:])
    moved = [each for each in layer.parameters() if not each.equal(before[each.data_ptr()])]
    assert len(moved) == last
    assert not any(each.equal(each.bfloat16().float()) for each in moved)


def trained_stream(turn: Tensor, seed: int) -> Tensor:
    """The stream behind a layer that was trained on streams, and with weights, turned by `turn`."""
    torch.manual_seed(seed)
    layer, wanted, streams = TinyLayer(), TinyLayer(), uneven_streams(seed)
    target = [wanted(each).detach() for each in streams]
    with torch.no_grad():
        for each in (layer.gate, layer.up):
            each.weight.copy_(each.weight @ turn)
        streams = [each @ turn for each in streams]
        fit = layer_fit(layer)
        trained = train_layer(fit, streams, fit.through(streams), target, passes=30)
    assert trained is not None
    return torch.cat(trained.behind)


@settings(max_examples=20)
@given(st.integers(0, 1 << 20))
def test_a_training_does_not_depend_on_the_axes_of_its_inputs(seed: int) -> None:
    """Along fixed axes, Adam takes other steps where the same inputs are turned."""
    random = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    one, two = trained_stream(torch.eye(WIDTH), seed), trained_stream(turn, seed)
    assert (one - two).norm() < 1e-2 * one.norm()
