"""What the target of a dataset's wells is measured from, well by well."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_ray.chem.similarity import packed
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import Wells
from ldm_ray.effects.compounds import CompoundEffects
from ldm_ray.effects.kernel import Conditions

NO_COMPOUND = -1


@dataclass(frozen=True)
class WellEffects:
    """The compounds' effects on a dataset's wells, by the numbers that wells refer to.

    Attributes:
        effects: The fitted effects.
        similarity: Similarity of each compound of the dataset to the landmarks', (n_compounds, n_landmarks).
        fold: Fold of each compound that the effects were fitted on, (n_compounds,), int64; -1 for others.
        cell: Number of each control profile's cell line, (n_basal,), int64.
    """

    effects: CompoundEffects
    similarity: Tensor
    fold: Tensor
    cell: Tensor

    def of(self, basal: Tensor, compound: Tensor, dose_um: Tensor, time_h: Tensor) -> Tensor:
        """Return m of n wells, (n, n_genes), log2; out of fold if the effects still know their folds.

        Args:
            basal: Numbers of the control profiles, (n,).
            compound: Numbers of the compounds, (n,), or `NO_COMPOUND`.
            dose_um: Micromolar, (n,).
            time_h: Hours, (n,).
        """
        x = Conditions(torch.log10(dose_um.float()), self.cell[basal], time_h.float())
        none = compound == NO_COMPOUND
        known = compound.masked_fill(none, 0)
        similarity = self.similarity[known].masked_fill(none[:, None], 0.0)
        if not len(self.effects.without_fold):
            return self.effects.of(similarity, x)
        return self.effects.out_of_fold(similarity, x, self.fold[known])

    def to(self, device: torch.device) -> "WellEffects":
        """Return the effects with their tensors on a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("similarity", "fold", "cell")}
        return replace(self, effects=self.effects.to(device), **tensors)


@dataclass(frozen=True)
class DatasetBase:
    """The base of a dataset's wells: a table by control profile, plus the effects of compounds if there are any.

    Attributes:
        table: Base without the compound's effect, for each control profile, log2, (n_basal, n_genes).
        effects: Effects of compounds.
        start: Profile that changes are reported from, for each control profile, log2, (n_basal, n_genes); the control
            itself if there is none. It holds what the plate does and the cell line's new plates would not.
    """

    table: NDArray[np.float32]
    effects: WellEffects | None = None
    start: NDArray[np.float32] | None = None

    def of_wells(self, wells: Wells) -> NDArray[np.float32]:
        """Return the base of each well, log2, (n, n_genes)."""
        frame = wells.frame
        return self.of(*(frame[name].to_numpy() for name in ("basal_id", "compound_id", "dose_um", "time_h")))

    def of(
        self,
        basal: NDArray[np.integer],
        compound: NDArray[np.integer],
        dose_um: NDArray[np.floating],
        time_h: NDArray[np.floating],
    ) -> NDArray[np.float32]:
        """Return the base of n wells, log2, (n, n_genes); arguments as `WellEffects.of`."""
        base: NDArray[np.float32] = self.table[basal]
        if self.effects is None:
            return base
        numbers = (torch.from_numpy(np.asarray(values, np.int64)) for values in (basal, compound))
        amounts = (torch.from_numpy(np.array(values, np.float32)) for values in (dose_um, time_h))
        return np.asarray(base + self.effects.of(*numbers, *amounts).numpy(), np.float32)


def well_effects(effects: CompoundEffects, dataset: PairedDataset) -> WellEffects:
    """Return the compounds' effects on the wells of a dataset."""
    cells = effects.cell_numbers([dataset.cells[cell] for cell in dataset.basal["cell_id"].to_pylist()])
    similarity = torch.from_numpy(effects.similarity(packed(dataset.parent_smiles.tolist())))
    return WellEffects(effects, similarity, torch.from_numpy(compound_folds(dataset)), cells)


def compound_folds(dataset: PairedDataset) -> NDArray[np.int64]:
    """Return the fold of each training compound, (n_compounds,); -1 for compounds without training wells."""
    table = dataset.profiles(["compound_id", "fold"], "train")
    folds = np.full(len(dataset.compounds), -1, np.int64)
    folds[table["compound_id"].to_numpy()] = table["fold"].to_numpy()
    return folds
