"""Types of the fields that a user writes."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def stays_inside(path: Path) -> Path:
    if not path.is_absolute() and ".." in path.parts:
        raise ValueError(
            f"{path} leaves the directory of the recipe; write an absolute path if that is meant"
        )
    return path


def no_truth(value: Any) -> Any:
    """True would pass as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


TextPath = Annotated[Path, AfterValidator(stays_inside)]


Size = Annotated[int, BeforeValidator(no_truth), Field(gt=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, BeforeValidator(no_truth), Field(gt=0, le=1)]
