"""Several matrices as one: rows follow each other, and each matrix has its own order of genes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldm_ray.data.releases.release import Genes, ProfileReader
from ldm_ray.errors import DataError
from ldm_ray.storage.source import SourceFile


@dataclass(frozen=True)
class JoinedReader:
    """Rows of several readers, numbered one after the other.

    Attributes:
        source: The first matrix.
        readers: The readers, in order.
        columns: Positions of the common genes in each reader's matrix.
        starts: Row number of each reader's first row, and one past the last row of all.
    """

    source: SourceFile
    readers: tuple[ProfileReader, ...]
    columns: tuple[np.ndarray, ...]
    starts: tuple[int, ...]

    def blocks(self, rows: np.ndarray, genes: np.ndarray, block_mb: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `ProfileReader`; genes are numbers of common genes."""
        before = 0
        for reader, own, columns in matrices(self, rows, genes):
            for positions, values in reader.blocks(own, columns, block_mb):
                yield positions + before, values
            before += len(own)

    def without_ids(self) -> "JoinedReader":
        """See `ProfileReader`."""
        return replace(self, readers=tuple(reader.without_ids() for reader in self.readers))


def matrices(
    reader: ProfileReader, rows: np.ndarray, genes: np.ndarray
) -> Iterator[tuple[ProfileReader, np.ndarray, np.ndarray]]:
    """Yield each matrix of a reader with its own numbers of the given rows and genes."""
    if not isinstance(reader, JoinedReader):
        yield reader, rows, genes
        return
    edges = np.searchsorted(rows, reader.starts)
    for number, (own, columns) in enumerate(zip(reader.readers, reader.columns, strict=True)):
        yield own, rows[edges[number] : edges[number + 1]] - reader.starts[number], columns[genes]


def join_readers(
    readers: Sequence[ProfileReader], columns: Sequence[np.ndarray], lengths: Sequence[int]
) -> ProfileReader:
    """Join readers; one alone is returned as it is.

    Args:
        readers: The readers, in order.
        columns: Positions of the common genes in each, as `common_genes` returns them.
        lengths: Number of rows of each.
    """
    if len(readers) == 1:
        return readers[0]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return JoinedReader(readers[0].source, tuple(readers), tuple(columns), tuple(int(start) for start in starts))


def common_genes(parts: Sequence[Genes]) -> tuple[Genes, list[np.ndarray]]:
    """Return the genes that all matrices have, in the first one's order, and their positions in each matrix.

    The `columns` of the returned genes are positions in the matrix if there is one, and count from 0 if there are more.

    Raises:
        DataError: If the matrices have no gene in common.
    """
    if len(parts) == 1:
        return parts[0], [parts[0].columns]
    keys = [_keys(genes) for genes in parts]
    common = [key for key in keys[0] if all(key in other for other in keys)]
    if not common:
        raise DataError("the matrices have no gene in common")
    kept = np.array([keys[0][key] for key in common])
    missing = dict.fromkeys(symbol for genes in parts for symbol in genes.missing)
    columns = [genes.columns[[own[key] for key in common]] for genes, own in zip(parts, keys, strict=True)]
    first = parts[0]
    joined = Genes(first.symbols[kept], first.entrez_ids[kept], np.arange(len(common)), tuple(missing))
    return joined, columns


def _keys(genes: Genes) -> dict[str, int]:
    """Number of each gene by Entrez id, or by symbol where it has none."""
    names = [str(entrez) if entrez else symbol for entrez, symbol in zip(genes.entrez_ids, genes.symbols, strict=True)]
    return {name: number for number, name in enumerate(names)}
