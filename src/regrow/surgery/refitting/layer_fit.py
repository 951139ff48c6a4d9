"""Solve for the matrices of one layer, so that it computes what the original computes there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from regrow.architectures import LabelledTensor, Layout
from regrow.scoring.stream import read_by
from regrow.surgery.refitting.layer_calls import LayerCall, LayerModel
from regrow.surgery.refitting.least_squares import LeastSquares, Solution


def writers(layout: Layout, axis: str, layer: int) -> list[str]:
    """Modules of a layer that write to the residual stream, in no order."""
    axes = (each for each in layout.blueprint.axes if each.kind in ("ffn", "head"))
    patterns = dict.fromkeys(pattern for each in axes for pattern in each.sites)
    return layout.modules(patterns, (axis, layer))


def readers(layout: Layout, axis: str, layer: int) -> dict[str, LabelledTensor]:
    """The weights of a layer that read the residual stream, by the pattern of their names.

    Those of experts are left out, since their matrices are no modules.
    """
    inside = (
        each
        for each in read_by(layout).values()
        if each.layer == (axis, layer) and not each.is_of_experts
    )
    return {label.pattern: label for label in inside}


def module_of(label: LabelledTensor) -> str:
    """The module that holds a weight."""
    return label.parameter.removesuffix(".weight")


@dataclass(frozen=True)
class FittedMatrix:
    """One matrix that was solved for, or a layer of which none can be.

    Attributes:
        name: The name of its module in the result: `model.layers.3.mlp.down_proj`.
        ridge: The ridge that was chosen, as a multiple of the mean square of an input; None if the
            carved weights were kept.
        before, after: Squared error on the calibration text with the carved and with the refitted
            weights, relative to the square of what is wanted: of a matrix that writes to the
            stream, the original's stream behind it; of one that reads the stream, what the original
            gives there. Matrices in front of this one are refitted in both.
        reads: Whether the matrix reads the stream; else it writes to it.
        trained: Whether this is the last matrix of a layer that was then trained alone
            (`regrow.surgery.refitting.layer_training`); `after` is the error behind that training.
    """

    name: str
    ridge: float | None
    before: float
    after: float
    reads: bool = False
    trained: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LayerFit:
    """One layer of the cut model, whose matrices are solved for in the order of their use.

    `calls`: by batch. `texts`: where the batches have tokens, [texts, tokens] each. `unseen`: the
    numbers of batches that nothing is fitted to. `factor`: the constant that multiplies what the
    matrices write.
    """

    model: LayerModel
    layer: nn.Module
    writers: Sequence[str]
    calls: Sequence[LayerCall]
    texts: Sequence[Tensor]
    unseen: range
    factor: float

    def module(self, name: str) -> nn.Module:
        module: nn.Module = self.model.network.get_submodule(name)
        return module

    def through(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """The stream behind the layer as it is, by batch."""
        pairs = zip(self.calls, streams, strict=True)
        return [call(self.layer, stream) for call, stream in pairs]

    def solve(
        self, number: int, streams: Sequence[Tensor], target: Sequence[Tensor]
    ) -> tuple[FittedMatrix, list[Tensor]]:
        """Solve for one writing matrix, after those in front of it in the layer.

        `number`: of the matrix, in the order of use. `streams`: the stream in front of the layer,
        by batch. `target`: the stream wanted behind the matrix, by batch.

        Returns what was done, and the stream behind the matrix, by batch.
        """
        reads: list[Tensor] = []
        fronts: list[Tensor] = []
        problem: LeastSquares | None = None
        name, whole = "", 0.0
        for batch, (call, stream, wanted, is_text) in enumerate(
            zip(self.calls, streams, target, self.texts, strict=True)
        ):
            noted = self.model.run_noting(
                partial(call, self.layer, stream), self.writers, number + 1
            )
            written = [wrote.reshape(stream.shape).float() for _, _, wrote in noted]
            name, read, _ = noted[-1]
            front = stream + self.factor * sum(written[:-1]) if number else stream
            missing = (wanted - front) / self.factor - written[-1]
            if problem is None:
                problem = LeastSquares(self.module(name))
            if batch not in self.unseen:
                inputs = read.reshape(*is_text.shape, -1).float()
                problem.add(inputs[is_text], missing[is_text])
                whole += float((wanted[is_text] / self.factor).double().square().sum())
            reads.append(read)
            fronts.append(front)
        assert problem is not None
        solution = problem.solve()
        module = self.module(name)
        behind = [
            front + self.factor * module(read).reshape(front.shape).float()
            for front, read in zip(fronts, reads, strict=True)
        ]
        return fitted_matrix(name, solution, whole, reads=False), behind

    def solve_readers(
        self, streams: Sequence[Tensor], wanted: Mapping[str, Sequence[Tensor]]
    ) -> list[FittedMatrix]:
        """Solve for matrices that read the same input.

        `streams`: the stream in front of the layer, by batch. `wanted`: what each matrix should
        give, by name and batch.
        """
        problems = {name: LeastSquares(self.module(name)) for name in wanted}
        squares = dict.fromkeys(wanted, 0.0)
        for number, (call, stream, is_text) in enumerate(
            zip(self.calls, streams, self.texts, strict=True)
        ):
            if number in self.unseen:
                continue
            run = partial(call, self.layer, stream)
            for name, read, gave in self.model.run_noting(run, list(wanted), len(wanted)):
                target = wanted[name][number][is_text].float()
                problems[name].add(read[is_text].float(), target - gave[is_text].float())
                squares[name] += float(target.double().square().sum())
        return [
            fitted_matrix(name, each.solve(), squares[name], reads=True)
            for name, each in problems.items()
        ]


def fitted_matrix(name: str, solution: Solution, whole: float, *, reads: bool) -> FittedMatrix:
    """What solving did for a matrix; `whole`: the square of what is wanted."""
    whole = max(whole, 1e-30)
    before, after = solution.before / whole, solution.after / whole
    return FittedMatrix(name, solution.ridge, before, after, reads)
