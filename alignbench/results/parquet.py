"""Numbers from the parquet files of a run, without pandas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignbench.results.schema import UnreadableError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into an UnreadableError; pyarrow's own errors are ValueErrors and OSErrors."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        said = str(error) or type(error).__name__
        raise UnreadableError(f"{path.name} cannot be read: {said}") from error


def parquet_file(path: Path) -> ParquetFile:
    """Opens a small file.

    Not by `read_table`: it loads pandas, which takes longer than all the rest of a comparison.
    """
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    return ParquetFile(BufferReader(path.read_bytes()), pre_buffer=False)


def floats(column: Any) -> NDArray[np.float64]:
    """Returns a column of a pyarrow table, NaN where it is null. Not by to_numpy, which loads pandas."""
    whole = column.combine_chunks()
    is_plain = str(whole.type) in ("double", "int64") and not whole.null_count
    return np.asarray(np.from_dlpack(whole) if is_plain else whole.to_pylist(), dtype=np.float64)


def means_of_measured(values: NDArray[np.float64]) -> list[float]:
    """Returns the means of rows over what is not NaN; NaN where all of a row is."""
    measured = ~np.isnan(values)
    sums, counts = np.where(measured, values, 0.0).sum(axis=1), measured.sum(axis=1)
    means: list[float] = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0).tolist()
    return means
