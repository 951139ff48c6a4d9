"""Whether a cut can be refitted and rotated as its options say."""

from regrow.architectures import Layout
from regrow.common.errors import UserError
from regrow.surgery.cut import Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.rotatable import hidden_axis, rotation_problem


def check_refit(spec: CutSpec, layout: Layout, *, has_text: bool) -> None:
    """Raise UserError if a refit is asked for and is not possible."""
    asked = asked_for(spec)
    if not asked:
        return
    key, names = asked[0], " and ".join(asked)
    if spec.refit is False:
        raise UserError("refit is false, so no layer is trained; leave one of them out", key=key)
    if not has_text:
        raise UserError(f"a refit needs a text; give one, or leave {names} out", key=key)
    if spec.cut is None and spec.options.keys() <= {"vocab_size"}:
        raise UserError(
            f"only the vocabulary is cut, which changes no layer; leave {names} out", key=key
        )
    if not (layout.blueprint.pre_norm or spec.refit_passes):
        raise UserError(
            f"{layout.blueprint.model_type} normalises what attention and ffn write before it is "
            "in the residual stream, so no matrix can be solved for; give refit_passes, which "
            "trains each layer, or leave refit out",
            key=key,
        )


def asked_for(spec: CutSpec) -> list[str]:
    """The options that ask for a refit; without one it is left to the text and the architecture."""
    asked = {"refit": bool(spec.refit), "refit_passes": spec.refit_passes > 0}
    return [name for name, is_given in asked.items() if is_given]


def check_rotation(spec: CutSpec, layout: Layout, *, has_text: bool) -> None:
    """Raise UserError if a rotation is asked for and is not possible."""
    if not spec.rotate:
        return
    if not has_text:
        raise UserError(
            "principal directions are found on a text; give one, or leave rotate out", key="rotate"
        )
    if problem := rotation_problem(layout):
        raise UserError(f"{problem}; leave rotate out", key="rotate")
    name = hidden_axis(layout)
    if name is not None and spec.hidden == layout.sizes[name]:
        raise UserError("hidden keeps its size; leave rotate out", key="rotate")
    # Scores of hidden may be in a file of scores of all axes, and are not used.
    if spec.by is not None and spec.options.keys() == {"hidden"}:
        raise UserError(
            "principal directions are chosen by themselves; leave by or rotate out", key="rotate"
        )


def cuts_hidden(spec: CutSpec) -> bool:
    """Whether a cut is of hidden, perhaps among others."""
    if spec.cut is None:
        return spec.hidden is not None
    return any(name.rpartition(".")[2] == "hidden" for name in Cut.load(spec.cut).axes)


def rotates(spec: CutSpec, layout: Layout) -> bool:
    """Whether a cut of hidden rotates it, if there is text."""
    if spec.cut is not None:
        return Cut.load(spec.cut).is_rotated
    if spec.rotate is None:
        return spec.by is None and spec.scores is None and rotation_problem(layout) is None
    return spec.rotate
