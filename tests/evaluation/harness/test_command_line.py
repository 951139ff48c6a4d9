import pytest

from regrow.common.errors import UserError
from regrow.evaluation.harness import __main__ as command_line


def test_a_mistake_of_the_user_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise UserError("no such directory", value="none")

    monkeypatch.setattr(command_line, "cli_evaluate", fails)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "regrow: none: no such directory\n"
