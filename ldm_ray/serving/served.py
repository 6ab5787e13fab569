"""A served model: its predictor, its engine, and its description in the API."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle, checksum, load_bundle
from ldm_ray.chem.drawing import MAX_DRAWN_ATOMS, draw_svg
from ldm_ray.chem.smiles import NO_MOLECULE, parse_compound
from ldm_ray.data.manifest import Gene
from ldm_ray.errors import QueryError
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.prediction.queries import PreparedQuery, Query
from ldm_ray.serving.backend import Answer
from ldm_ray.serving.engine import SamplerEngine
from ldm_ray.serving.errors import RequestError
from ldm_ray.serving.schemas import CellLine, CompoundInfo, Condition, ModelInfo, PredictRequest
from ldm_ray.storage.filesystem import StorageOptions


class ServedModel:
    """Answers requests with one bundle; has the methods of `Backend` without the model's name.

    Args:
        name: Name of the model.
        bundle: Bundle of kind `ldm`.
        max_waiting: See `SamplerEngine`.
        device: Device to compute on.
    """

    def __init__(self, name: str, bundle: Bundle, max_waiting: int, device: torch.device | str = "cpu") -> None:
        self.name, self.bundle_id = name, checksum(bundle.metadata)
        self.predictor = Predictor(bundle, device)
        self.engine = SamplerEngine(self.predictor, max_waiting)
        self.genes: list[Gene] = bundle.metadata["genes"]

    @staticmethod
    def load(name: str, url: str, max_waiting: int, storage_options: StorageOptions | None = None) -> "ServedModel":
        """Load a bundle from any URL, onto a GPU if there is one.

        Raises:
            BundleError: If it is not a usable bundle of kind `ldm`.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return ServedModel(name, load_bundle(url, "ldm", storage_options), max_waiting, device)

    async def predict(self, request: PredictRequest, vectors: Mapping[str, np.ndarray] | None = None) -> Answer:
        """Answer a request; `vectors` are embeddings of its parents, if computed elsewhere.

        Raises:
            RequestError: If a condition cannot be answered; names it.
            OverloadedError: If too much is waiting.
        """
        predictor, n_draws = self.predictor, 0
        try:
            how = predictor.sampling(request.n_samples, request.steps, request.seed)
            if request.wanted == "draws":
                n_draws = how.n_samples
                how = predictor.sampling(request.n_samples, request.steps, request.seed, n_draws)
        except QueryError as error:
            raise RequestError("steps" if error.field == "steps" else "n_samples", str(error)) from None
        # In a thread: reading a molecule takes a millisecond, and other requests must not wait for hundreds.
        prepared = await asyncio.to_thread(self._prepare_all, request.conditions)
        if vectors and predictor.encodings is not None:
            predictor.encodings.preload(list(vectors), np.stack(list(vectors.values())))
        samples = await asyncio.wrap_future(self.engine.submit(prepared, how))
        predictions = predictor.predictions(prepared, samples)
        return Answer(
            model=self.name,
            bundle=self.bundle_id,
            genes=list(predictions.genes),
            n_samples=how.n_samples,
            sampler=how.sampler.fields(),
            parents=[item.parent for item in prepared],
            mean=predictions.mean,
            std=predictions.std,
            basal=predictions.basal,
            draws=predictions.draws,
            similarity=predictions.similarity,
            out_of_domain=predictions.out_of_domain,
            notes=predictions.notes,
        )

    def model(self) -> ModelInfo:
        """Describe the model."""
        predictor, domain = self.predictor, self.predictor.reader.domain
        metadata, trained = predictor.bundle.metadata, predictor.bundle.metadata["trained_on"]
        return ModelInfo(
            model=self.name,
            bundle=self.bundle_id,
            n_genes=predictor.bundle.n_genes,
            n_samples=predictor.bundle.config.predict.n_samples,
            sampler=dict(predictor.sampler_choice().fields()),
            encoder=dict(metadata["encoder"]),
            trained_on={
                "n_profiles": trained["n_profiles"],
                "simulated": trained["simulated"],
                "manifest_sha256": trained["manifest_sha256"],
            },
            dose_um=list(domain.dose_um),
            time_h=list(domain.time_h),
            ldm_ray_version=metadata.get("ldm_ray_version", ""),
        )

    def cells(self) -> list[CellLine]:
        """Return the cell lines that a condition may name."""
        reader = self.predictor.reader
        return [CellLine(cell=cell, times_h=reader.times_h(cell)) for cell in reader.cell_lines]

    def compound(self, smiles: str) -> CompoundInfo:
        """Describe a molecule.

        Raises:
            RequestError: If it is not a molecule.
        """
        compound = parse_compound(smiles)
        if compound is None:
            raise RequestError("smiles", f"{NO_MOLECULE}; got {smiles[:60]!r}")
        similarity = float(self.predictor.reader.similarity([compound.parent_smiles])[0])
        try:
            drawing = draw_svg(compound.smiles)
        except QueryError:
            drawing = f"<svg xmlns='http://www.w3.org/2000/svg'><title>over {MAX_DRAWN_ATOMS} atoms</title></svg>"
        return CompoundInfo(
            smiles=compound.smiles,
            parent_smiles=compound.parent_smiles,
            inchikey=compound.inchikey,
            flag=compound.flag,
            left_out=list(compound.left_out),
            known=similarity == 1.0,
            similarity=similarity,
            drawing=drawing,
        )

    @property
    def closed(self) -> bool:
        """Whether the model refuses new requests."""
        return self.engine.stopped

    def close(self) -> None:
        """Finish requests in progress and free the sampler."""
        self.engine.stop()

    def __del__(self) -> None:
        """Close; Ray Serve calls this method to unload a model, which requests may still be using."""
        if hasattr(self, "engine"):
            self.close()

    def _prepare_all(self, conditions: Sequence[Condition]) -> list[PreparedQuery]:
        prepared = [self._prepare(number, condition) for number, condition in enumerate(conditions)]
        self.predictor.reader.similarity([item.parent for item in prepared])  # cached for `judge`
        return prepared

    def _prepare(self, number: int, condition: Condition) -> PreparedQuery:
        basal = None if condition.basal is None else np.array(condition.basal, dtype=np.float32)
        query = Query(condition.smiles, condition.dose_um, condition.time_h, condition.cell or "", basal)
        try:
            return self.predictor.reader.prepare(query)
        except QueryError as error:
            raise RequestError(f"conditions.{number}.{error.field}", str(error)) from None
