"""The directory of a run is known by its ledger, and stands for its model."""

from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.common.run_directory import is_run, model_of_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run/stages/half/model").mkdir(parents=True)
    (tmp_path / "run/ledger.jsonl").touch()
    return tmp_path / "run"


def test_a_model_is_no_run(run: Path) -> None:
    assert is_run(run)
    assert not is_run(run / "stages/half/model")
    (run / "config.json").touch()  # someone's model beside a file of this name
    assert not is_run(run)


def test_the_model_is_where_the_link_leads(run: Path) -> None:
    (run / "model").symlink_to("stages/half/model")
    assert model_of_run(run) == run / "model"


def test_a_run_that_is_not_finished_has_no_model(run: Path) -> None:
    with pytest.raises(UserError) as refused:
        model_of_run(run)
    assert str(refused.value) == (
        f"{run}: a run that is not finished, so it has no model yet; models so far: "
        f"{run / 'stages/half/model'}"
    )
    (run / "model").symlink_to("stages/gone/model")
    with pytest.raises(UserError, match="not finished"):
        model_of_run(run)
