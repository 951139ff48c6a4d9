"""A cut model of each family loads, runs and generates without regrow."""

from pathlib import Path

import numpy as np

from regrow.architectures import BLUEPRINTS
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.verify import verify_all
from regrow.surgery.budget import parameter_budget
from regrow.surgery.carve import carve
from regrow.surgery.fixed_costs import plan_sizes
from regrow.surgery.result_files import plan_output
from tests.cuts.random_cuts import cut_to
from tests.tiny import write_tiny


def test_every_family_works_without_regrow(tmp_path: Path) -> None:
    """All axes are cut at once; the check runs in a process without regrow."""
    sources, made = [], []
    for blueprint in BLUEPRINTS:
        for number in range(len(blueprint.tiny)):
            source = write_tiny(blueprint, tmp_path / f"{blueprint.model_type}-{number}", number)
            checkpoint = open_checkpoint(source)
            layout = bind_checkpoint(checkpoint)
            whole = {name: layout.sizes[name] for name in blueprint.axis_names}
            sizes = (
                whole
                | plan_sizes(layout, parameter_budget(layout, layout.parameters() // 2))
                | {"vocab": 50}
            )
            cut = cut_to(
                layout, sizes, np.random.default_rng(0), checkpoint.fingerprint, ordered=True
            )
            out = tmp_path / f"{source.name}-cut"
            carve(plan_output(ModelDirectory(checkpoint.directory), cut), out)
            sources.append(source)
            made.append(out)
    results = verify_all([*sources, *made])
    # Of what transformers warns about in the original, the cut is not guilty (Phi-3's longrope).
    for before, after in zip(results[: len(made)], results[len(made) :], strict=True):
        known = {check.detail for check in before.checks if check.name == "no warnings"}
        failed = [check for check in after.checks if not check.ok and check.detail not in known]
        assert not failed, (after.directory.name, failed)
        assert any(check.name == "greedy generation" for check in after.checks)
