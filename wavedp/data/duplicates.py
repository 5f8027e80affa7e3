"""Equal records: a private fit protects one record, and whoever is in two of them has less.

data.duplicates   what happens to train images that are equal in every pixel
refuse            the trial is refused, with their number and an example
merge             one of each is kept, the first, with its label and caption; every split is merged by itself
accept            all are kept; ε is stated for one copy, and in the ledger for all copies of a record together
"""

from __future__ import annotations

from functools import cache as memoized

from wavedp import data
from wavedp.config import DataConfig
from wavedp.errors import UserError


@memoized
def check(config: DataConfig) -> list[str]:
    """Refuse a private fit to equal records, or warn of them, as `data.duplicates` says."""
    found = data.repeats(config, "train")
    if found.example is None:
        return []
    files = data.record_files(config, "train")
    one, other = (str(files[i]) if files else f"image {i}" for i in found.example)
    what = (
        f"{found.records} of {data.n_records(config, 'train')} train images of {config.name} are there more than once, "
        f"up to {found.copies} times (such as {one} = {other})"
    )
    if config.duplicates == "refuse":
        raise UserError(
            f"{what}, and ε would protect one copy only: set data.duplicates=merge to keep one of each, or accept to "
            "have ε stated for all copies too."
        )
    return [f"{what}: ε protects one copy, and the ledger states it for all {found.copies} (data.duplicates=accept)."]
