"""A task of lm-eval with its questions from local files, or with its questions in another form."""

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask

from regrow.common.errors import UserError
from regrow.evaluation.tasks.forms import settings_of
from regrow.evaluation.tasks.local_data import DATASETS, name_of, read_splits

_SPLITS = ("training_split", "validation_split", "test_split")


class LocalTask(ConfigurableTask):
    """A task of lm-eval whose data set is one of `DATASETS`.

    `config`: the settings of the task, and besides

    - `data`: the directory of `read_splits`, or None to load the data set as lm-eval does;
    - `mode`: the form of `settings_of`, or None for the task's own form.

    Raises UserError if the questions cannot be read, or not be asked in this form.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        settings = {key: value for key, value in config.items() if key != "class"}
        self._data: Path | None = settings.pop("data", None)
        mode = settings.pop("mode", None)
        self._source = name_of(settings.get("dataset_path"), settings.get("dataset_name"))
        self._subset: str | None = settings.get("dataset_name")
        task = settings.get("task")
        if self._data is not None and self._source not in DATASETS:
            raise UserError(
                f"{task}: its data set ({self._source}) is not read from local files; evaluate it "
                "without `data`"
            )
        if mode is not None:
            try:
                own = settings_of(self._source, self._subset or "", mode)
            except UserError as error:
                raise error.within(f"{task}: ") from None
            settings.update(own or {})
        super().__init__(config=settings)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Load the data set; called by the constructor."""
        if self._data is None:
            super().download(dataset_kwargs, **options)
            return
        splits = read_splits(self._source, self._subset, self._data)
        self.dataset = DatasetDict({name: Dataset.from_list(docs) for name, docs in splits.items()})
        for split in _SPLITS:  # lm-eval then takes demonstrations from the next split that is there
            if self.config[split] not in splits:
                self.config[split] = None
        if self.fewshot_cfg.split not in splits:
            self.fewshot_cfg.split = None
