"""Whether a cut of hidden can keep principal directions of the residual stream."""

from regrow.architectures import Layout


def hidden_axis(layout: Layout) -> str | None:
    """The axis of the residual stream; None if the stacks have an axis each, or there is none."""
    names = [axis.name for axis in layout.blueprint.axes if axis.kind == "hidden"]
    return names[0] if len(names) == 1 else None


def rotation_problem(layout: Layout) -> str | None:
    """Why the residual stream of a model cannot be rotated; None if it can (surgery/rotation.py).

    A rotated stream is read and written by other matrices. A tied head would have to be rotated as
    the embedding and scaled by the norm in front of it at the same time.
    """
    blueprint, name = layout.blueprint, hidden_axis(layout)
    if name is None:
        return f"{blueprint.model_type} has no axis hidden that is one for all its layers"
    if blueprint.derived:
        return f"the blueprint of {blueprint.model_type} is derived, and does not say what norms do"
    if not (blueprint.pre_norm and blueprint.rotates):
        return f"{blueprint.model_type} normalises what is in its residual stream"
    if any(axis.kind == "expert" for axis in blueprint.axes):
        return f"{blueprint.model_type} has experts, whose matrices are not rotated"
    if layout.tied:
        return "the head is tied to the embedding, so the residual stream cannot be rotated"
    if any(fold.axis == name for fold in layout.folds()):
        return f"{blueprint.model_type} scales by the size of {name}"
    return None
