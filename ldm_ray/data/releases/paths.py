"""The files of a release, and how to open them."""

from dataclasses import dataclass, field

from ldm_ray.data.releases.release import Release, ReleaseOptions
from ldm_ray.errors import DataError
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.source import SourceFile, source_file

WANTED = "give --h5ad, or all of --gctx, --inst-info, --pert-info and --gene-info"


@dataclass(frozen=True)
class ReleasePaths:
    """Paths or URLs: an h5ad or zarr store, or matrices with their tables.

    Attributes:
        gctx: Level 3 matrices.
        inst_info: Tables of wells.
        pert_info: Tables of perturbagens, with SMILES.
        gene_info: Table of genes.
        h5ad: File or zarr store with wells in it; it may come with a gene table and a table of compounds.
        options: What the files do not say.
    """

    gctx: tuple[str, ...] = ()
    inst_info: tuple[str, ...] = ()
    pert_info: tuple[str, ...] = ()
    gene_info: str | None = None
    h5ad: str | None = None
    options: ReleaseOptions = field(default_factory=ReleaseOptions)

    @property
    def given(self) -> bool:
        """Whether any file is named."""
        return any((self.gctx, self.inst_info, self.pert_info, self.gene_info, self.h5ad))

    def check(self) -> None:
        """Check that the named files make up a release.

        Raises:
            DataError: If files are missing, or of both forms.
        """
        if self.h5ad and (self.gctx or self.inst_info or len(self.pert_info) > 1):
            raise DataError(f"{WANTED}; --h5ad goes with --gene-info and one --pert-info only")
        tables = {"gctx": self.gctx, "inst-info": self.inst_info, "pert-info": self.pert_info}
        missing = [f"--{name}" for name, files in (tables | {"gene-info": self.gene_info}).items() if not files]
        if not self.h5ad and missing:
            raise DataError(f"{WANTED}; missing: {', '.join(missing)}")
        if self.options.layer and not self.h5ad:
            raise DataError("--layer names a layer of an --h5ad; there is none")

    def open(self, storage_options: StorageOptions) -> Release:
        """Read the tables; the matrix is read later.

        Raises:
            DataError: If files are missing or are not a release.
        """
        from ldm_ray.data.releases.units import check_unit

        self.check()
        check_unit(self.options.dose_unit, "dose")
        check_unit(self.options.time_unit, "time")

        def files(urls: tuple[str, ...]) -> list[SourceFile]:
            return [source_file(url, storage_options) for url in urls]

        genes = source_file(self.gene_info, storage_options) if self.gene_info else None
        if self.h5ad or genes is None:
            from ldm_ray.data.releases.h5ad import read_h5ad

            compounds = files(self.pert_info)[0] if self.pert_info else None
            return read_h5ad(source_file(str(self.h5ad), storage_options), genes, compounds, self.options)
        from ldm_ray.data.releases.l1000 import read_l1000

        return read_l1000(files(self.gctx), files(self.inst_info), files(self.pert_info), genes, self.options)
