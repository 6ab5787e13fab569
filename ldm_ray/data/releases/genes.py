"""Finds the landmark genes of a matrix, by Entrez id, symbol or Ensembl id; never by position."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ldm_ray.data.releases.columns import ENSEMBL, GENE_ID, LANDMARK, SYMBOL, Table
from ldm_ray.data.releases.release import Genes
from ldm_ray.data.releases.text_table import read_text_table
from ldm_ray.errors import DataError, listing
from ldm_ray.storage.source import AnyFile

N_LANDMARKS = 978
SHOWN = 8
YES = frozenset({"1", "1.0", "true", "t", "yes", "y", "landmark"})
PROBE_ID = re.compile(r"(AFFX-.+|\d+)(_[a-z])?_at")
ENSEMBL_ID = re.compile(r"ENS[A-Z]*G\d+(\.\d+)?")
KEYS = {"pr_gene_id": "Entrez ids", "pr_gene_symbol": "symbols", "ensembl_id": "Ensembl ids"}


def read_gene_info(file: AnyFile) -> pd.DataFrame:
    """Read a gene table; every column is text.

    Returns:
        Its columns, and under these names: `pr_gene_id` (Entrez id), `pr_gene_symbol`, `ensembl_id` (may be empty),
        `pr_is_lm` (`1` for landmarks).

    Raises:
        DataError: If it lacks columns, an Entrez id is not a number, or it does not mark 978 landmarks.
    """
    table = read_text_table(file)
    table.require({"Entrez id": GENE_ID, "symbol": SYMBOL, "landmark or not": LANDMARK})
    ids = table.text(GENE_ID).str.removesuffix(".0")
    bad = ids[~ids.str.fullmatch(r"\d+")]
    if len(bad):
        raise DataError(f"{table.name}: the gene id must be an Entrez id; got {bad.iloc[0]!r}")
    landmark = are_landmarks(table)
    found = table.frame.assign(
        pr_gene_id=ids,
        pr_gene_symbol=table.text(SYMBOL),
        ensembl_id=table.text(ENSEMBL).str.replace(r"\.\d+$", "", regex=True),
        pr_is_lm=np.where(landmark, "1", "0"),
    )
    count = found.loc[landmark, "pr_gene_id"].nunique()
    if count != N_LANDMARKS:
        raise DataError(
            f"{table.name} must mark {N_LANDMARKS} landmark genes (pr_is_lm 1, or feature_space landmark); got {count}"
        )
    return found


def are_landmarks(table: Table) -> "pd.Series[bool]":
    """Tell which genes of a table are marked as landmarks."""
    return table.text(LANDMARK).str.casefold().isin(YES)


def match_landmarks(
    names: Mapping[str, np.ndarray], gene_info: pd.DataFrame, source: str, *, allow_missing: bool
) -> tuple[Genes, str]:
    """Find the landmark genes among a matrix's genes.

    Args:
        names: What the matrix calls its genes, in its order: one array per kind of name it has.
        gene_info: What `read_gene_info` returned.
        source: The matrix, for messages.
        allow_missing: Accept a matrix that lacks some landmark genes.

    Returns:
        The genes in the gene table's order, and which names found them.

    Raises:
        DataError: If landmark genes are missing, or one stands twice.
    """
    landmarks = gene_info[gene_info["pr_is_lm"] == "1"].drop_duplicates("pr_gene_id")
    best, used = pd.Series(data=False, index=landmarks.index), ("", "pr_gene_id")
    position: dict[str, int] = {}
    twice = pd.Series(dtype=object)
    for label, texts in names.items():
        if only_count(texts):
            continue
        plain = pd.Series(texts, dtype=object).map(plain_gene)
        for key in KEYS:
            wanted = landmarks[key]
            found = wanted.isin(set(plain)) & (wanted != "")
            if found.sum() > best.sum():
                best, used = found, (label, key)
                position = dict(zip(plain[::-1], range(len(plain) - 1, -1, -1), strict=True))
                twice = plain[plain.isin(set(wanted)) & plain.duplicated()]
    if not best.all() and (not best.any() or not allow_missing):
        raise DataError(_missing_message(landmarks[~best], names, len(landmarks), source))
    if len(twice):
        raise DataError(f"{source}: gene {twice.iloc[0]!r} stands twice among its {used[0]}")
    kept = landmarks[best]
    genes = Genes(
        kept["pr_gene_symbol"].to_numpy(dtype=str),
        kept["pr_gene_id"].astype(np.int64).to_numpy(),
        kept[used[1]].map(position).to_numpy(dtype=np.int64),
        tuple(landmarks.loc[~best, "pr_gene_symbol"]),
    )
    return genes, f"landmark genes found by the {KEYS[used[1]]} in {used[0]}"


def only_count(names: np.ndarray) -> bool:
    """Tell whether names are 0, 1, 2, ... or 1, 2, 3, ...: places of genes, and no Entrez ids."""
    texts = np.asarray(names).astype(str)
    return any(np.array_equal(texts, np.arange(start, start + len(texts)).astype(str)) for start in (0, 1))


def plain_gene(name: object) -> str:
    """Return a gene's name as it is compared: 780.0 is 780, and an Ensembl id has no version."""
    text = str(name).strip()
    if ENSEMBL_ID.fullmatch(text):
        return text.partition(".")[0]
    return text.removesuffix(".0")


def _missing_message(missing: pd.DataFrame, names: Mapping[str, np.ndarray], n_landmarks: int, source: str) -> str:
    if len(missing) < n_landmarks:
        lacking = [f"{row.pr_gene_symbol} ({row.pr_gene_id})" for row in missing.itertuples()]
        text = f"{source} lacks {len(missing)} of {n_landmarks} landmark genes: {listing(lacking, SHOWN)}"
    else:
        called = "; ".join(f"{label}: {', '.join(map(str, texts[:3]))}" for label, texts in names.items())
        text = f"{source} holds none of the {n_landmarks} landmark genes under their Entrez ids, symbols or Ensembl ids"
        text += f"; it calls its genes {called}"
    there = {plain_gene(name) for texts in names.values() for name in texts}
    cut = [gene for gene in missing["pr_gene_id"] if any(gene[:k] in there for k in range(4, len(gene)))]
    if len(cut) == len(missing):
        return text + "; its row ids look truncated"
    return text + ("; --allow-missing-genes keeps the others" if len(missing) < n_landmarks else "")
