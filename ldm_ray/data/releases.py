"""The files of a release, and how to open them."""

from dataclasses import dataclass

from ldm_ray.data.h5ad import read_h5ad
from ldm_ray.data.l1000 import read_l1000
from ldm_ray.data.release import Release
from ldm_ray.data.source import source_file
from ldm_ray.errors import DataError
from ldm_ray.storage.filesystem import StorageOptions


@dataclass(frozen=True)
class ReleasePaths:
    """Paths or URLs: either an h5ad with an optional gene table, or the four files of a GSE92742-shaped release.

    Attributes:
        gctx: Level 3 matrix.
        inst_info: Table of wells.
        pert_info: Table of perturbagens, with SMILES.
        gene_info: Table of genes.
        h5ad: PRnet-style file.
        allow_missing_genes: Accept a release that lacks some landmark genes.
    """

    gctx: str | None = None
    inst_info: str | None = None
    pert_info: str | None = None
    gene_info: str | None = None
    h5ad: str | None = None
    allow_missing_genes: bool = False

    @property
    def given(self) -> bool:
        """Whether any file is named."""
        return any((self.gctx, self.inst_info, self.pert_info, self.gene_info, self.h5ad))

    def check(self) -> None:
        """Check that the named files make up a release.

        Raises:
            DataError: If files are missing, or of both forms.
        """
        if self.gctx if self.h5ad else not all(self._tables):
            raise DataError("give --h5ad, or all of --gctx, --inst-info, --pert-info and --gene-info")

    def open(self, storage_options: StorageOptions) -> Release:
        """Read the tables; the matrix is read later.

        Raises:
            DataError: If files are missing or are not a release.
        """
        self.check()
        if self.h5ad:
            genes = source_file(self.gene_info, storage_options) if self.gene_info else None
            return read_h5ad(
                source_file(self.h5ad, storage_options), genes, allow_missing_genes=self.allow_missing_genes
            )
        matrix, wells, compounds, genes = (source_file(path, storage_options) for path in self._tables if path)
        return read_l1000(matrix, wells, compounds, genes, allow_missing_genes=self.allow_missing_genes)

    @property
    def _tables(self) -> tuple[str | None, ...]:
        return self.gctx, self.inst_info, self.pert_info, self.gene_info
