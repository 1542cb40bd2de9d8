"""mmengine's wrappers of data sets: several as one, one repeated, a part of one."""

from typing import Any

__all__ = ["inner_data_sets"]


def inner_data_sets(dataset: Any) -> list[Any]:  # noqa: ANN401 - any data set
    """Return the data sets that read samples themselves, inside whatever wrappers."""
    if hasattr(dataset, "datasets"):
        return [inner for one in dataset.datasets for inner in inner_data_sets(one)]
    return inner_data_sets(dataset.dataset) if hasattr(dataset, "dataset") else [dataset]
