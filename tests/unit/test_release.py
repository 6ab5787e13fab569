"""Reading releases: GCTX, its tables, h5ad; and the errors of bad ones."""

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cmapPy.pandasGEXpress import parse_gctx
from scipy import sparse

from ldm_ray.data.releases.gctx import COLUMN_IDS, MATRIX, GctxWriter, open_gctx
from ldm_ray.data.releases.genes import read_gene_info
from ldm_ray.data.releases.h5ad import read_h5ad
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.releases.release import ReleaseOptions
from ldm_ray.errors import DataError, NonFiniteError, StoreError
from tests.conftest import World


def read(world: World, **changed: Path | ReleaseOptions):  # type: ignore[no-untyped-def]
    files = {name: getattr(world.files, name) for name in ("gctx", "inst_info", "pert_info", "gene_info")}
    return read_l1000(**(files | changed))  # type: ignore[arg-type]


def test_blocks_equal_cmappy(world: World) -> None:
    """Any block size gives what cmapPy's whole read gives, genes in the gene table's order."""
    release = read(world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        whole = parse_gctx.parse(str(world.files.gctx)).data_df
    rows = release.wells["row"].to_numpy()[[3, 4, 50, 700, -1]]
    expected = whole.loc[release.genes.entrez_ids.astype(str), release.reader.profile_ids[rows]].T.to_numpy()
    for block_mb in (1, 64):
        parts = list(release.reader.blocks(rows, release.genes.columns, block_mb))
        assert np.concatenate([positions for positions, _ in parts]).tolist() == list(range(5))
        np.testing.assert_array_equal(np.concatenate([values for _, values in parts]), expected)


def test_genes_are_joined_on_entrez_id(world: World, tmp_path: Path) -> None:
    """Other symbols, other order of the gene table: the same genes, in the table's order."""
    table = read_gene_info(world.files.gene_info)
    renamed = table.assign(pr_gene_symbol="X" + table["pr_gene_symbol"]).iloc[::-1]
    path = tmp_path / "genes.txt"
    renamed.to_csv(path, sep="\t", index=False)
    a, b = read(world).genes, read(world, gene_info=path).genes
    np.testing.assert_array_equal(a.columns, b.columns[::-1])
    assert b.symbols[-1] == "X" + a.symbols[0]


def test_duplicates_are_dropped_and_counted(world: World) -> None:
    release = read(world)
    assert release.counts["duplicate_instance_ids"] == 3
    assert release.wells["profile_id"].is_unique


def test_missing_truncated_and_wrong_files(world: World, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read(world, gctx=tmp_path / "none.gctx")
    cut = tmp_path / "cut.gctx"
    cut.write_bytes(world.files.gctx.read_bytes()[:200_000])
    with pytest.raises(StoreError, match="truncated or damaged"):
        read(world, gctx=cut)
    text = tmp_path / "text.gctx"
    text.write_text("#1.3\n978\t377\t11\t34\n")
    with pytest.raises(DataError, match="must be a GCTX \\(HDF5\\); got GCT text, first line '#1.3"):
        read(world, gctx=text)
    with pytest.raises(
        DataError, match="lacks the columns for id of the well \\(inst_id, sample_id\\); plate \\(.*It has pr_gene_id"
    ):
        read(world, inst_info=world.files.gene_info)
    binary = tmp_path / "table.txt"
    binary.write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(DataError, match="must be a table with a tab between"):
        read(world, inst_info=binary)


def test_a_matrix_with_a_damaged_end_fails_while_reading(world: World, tmp_path: Path) -> None:
    """HDF5 opens a file of the right length whatever its chunks hold; the read itself must be checked."""
    path = tmp_path / "zip.gctx"
    with h5py.File(path, "w") as file:
        file.create_dataset(MATRIX, data=np.ones((64, 2), dtype="f4"), chunks=(8, 2), compression="gzip")
        file["0/META/ROW/id"] = np.array([b"1", b"2"])
        file[COLUMN_IDS] = np.array([b"w%d" % i for i in range(64)])
        offset = file[MATRIX].id.get_chunk_info(7).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(StoreError, match="truncated or damaged"):
        list(open_gctx(path).blocks(np.arange(64), np.arange(2), 1))


def test_nan_in_the_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "holes.gctx"
    with GctxWriter(path, np.array(["1", "2"])) as writer:
        writer.append(["a", "b"], np.array([[1.0, 2.0], [3.0, np.nan]], dtype=np.float32))
    reader = open_gctx(path)
    with pytest.raises(NonFiniteError, match="profile b holds NaN"):
        list(reader.blocks(np.arange(2), np.arange(2), 1))


def test_gene_table_and_matrix_must_agree(world: World, tmp_path: Path) -> None:
    table = read_gene_info(world.files.gene_info)
    path = tmp_path / "genes.txt"
    table.assign(pr_is_lm=["0", *table["pr_is_lm"][1:]]).to_csv(path, sep="\t", index=False)
    with pytest.raises(DataError, match="must mark 978 landmark genes \\(pr_is_lm 1, .*\\); got 977"):
        read(world, gene_info=path)
    other = table.assign(pr_gene_id=["123456", "123457", *table["pr_gene_id"][2:]])
    other.to_csv(path, sep="\t", index=False)
    with pytest.raises(DataError, match="lacks 2 of 978 landmark genes: SIMG0001 \\(123456\\), SIMG0002 \\(123457\\)"):
        read(world, gene_info=path)
    kept = read(world, gene_info=path, options=ReleaseOptions(allow_missing_genes=True)).genes
    assert len(kept.symbols) == 976
    assert kept.missing == ("SIMG0001", "SIMG0002")


def test_truncated_gene_ids_are_recognised(world: World, tmp_path: Path) -> None:
    path = tmp_path / "cut_ids.gctx"
    path.write_bytes(world.files.gctx.read_bytes())
    with h5py.File(path, "r+") as file:
        ids = file["0/META/ROW/id"][:]
        del file["0/META/ROW/id"]
        file["0/META/ROW/id"] = ids.astype("S6")
    with pytest.raises(DataError, match="row ids look truncated"):
        read(world, gctx=path)


def test_a_writer_that_fails_leaves_no_gctx(tmp_path: Path) -> None:
    path = tmp_path / "half.gctx"

    def fail_midway() -> None:
        with GctxWriter(path, np.array(["1"])) as writer:
            writer.append(["a"], np.ones((1, 1), dtype=np.float32))
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_midway()
    assert list(tmp_path.iterdir()) == []


def h5ad(path: Path, x: object, **obs: object) -> Path:
    rows = {"cell_id": ["A"] * 3, "pert_dose": [10.0, 1.0, -666.0], "pert_time": [6.0] * 3, "rna_plate": ["P_X1"] * 3}
    rows |= {"canonical_smiles": ["CCO", "CCN", "-666"], "pert_id": ["a", "b", "DMSO"], "control": [0, 0, 1]}
    rows |= {"pert_dose_unit": ["um"] * 3, "pert_time_unit": ["h"] * 3}
    frame = pd.DataFrame(rows | obs, index=["w1", "w2", "w3"])
    var = pd.DataFrame({"pr_is_lm": ["1"] * 978}, index=[f"G{i}" for i in range(978)])
    anndata.AnnData(X=x, obs=frame, var=var).write_h5ad(path)
    return path


def test_h5ad_dense_and_sparse_read_alike(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 978), dtype=np.float32)
    for name, stored in (("dense", x), ("sparse", sparse.csr_matrix(x))):
        release = read_h5ad(h5ad(tmp_path / f"{name}.h5ad", stored))
        (block,) = release.reader.blocks(np.array([0, 2]), release.genes.columns, 1)
        np.testing.assert_array_equal(block[1], x[[0, 2]])
        assert release.wells["kind"].tolist() == ["trt_cp", "trt_cp", "ctl_vehicle"]


def test_h5ad_gets_entrez_ids_from_a_gene_table_only(world: World, tmp_path: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad", np.ones((3, 978), dtype=np.float32))
    assert set(read_h5ad(path).genes.entrez_ids) == {0}
    with pytest.raises(DataError, match="holds none of the 978 landmark genes"):
        read_h5ad(path, world.files.gene_info)


def test_bad_h5ad(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read_h5ad(tmp_path / "none.h5ad")
    text = tmp_path / "text.h5ad"
    text.write_text("no")
    with pytest.raises(DataError, match="not a readable h5ad"):
        read_h5ad(text)


def test_gctx_columns_are_where_they_should_be(world: World) -> None:
    with h5py.File(world.files.gctx) as file:
        assert file.attrs["version"] == b"GCTX1.0"
        assert file[MATRIX].shape == (len(file[COLUMN_IDS]), 1000)
