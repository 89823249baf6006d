"""Rows of a dataset that lie in the order in which they are read."""

from __future__ import annotations

from datasets import Dataset


def in_order(dataset: Dataset) -> Dataset:
    """A shuffled or filtered dataset, written anew in its order; any other as it is.

    datasets does this itself before it adds a column, but in the dataset's format: every value of a large column, such
    as a teacher's states, then goes through Python. Here it is copied as Arrow.
    """
    if dataset._indices is None:
        return dataset
    form = dataset.format
    options = {"columns": form["columns"], "output_all_columns": form["output_all_columns"], **form["format_kwargs"]}
    return dataset.with_format("arrow").flatten_indices().with_format(form["type"], **options)


__all__ = ["in_order"]
