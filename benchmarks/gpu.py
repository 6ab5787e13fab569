"""What a GPU makes of the torch parts: right numbers, training and sampling speed, memory. Needs neither Ray nor RDKit.

    python benchmarks/gpu.py [--size toy|full] [--device cuda|cpu] [--json OUT]

Errors are against float64 on the CPU. Training is on resident random wells: 836,841 of them at full size, which takes
about 5 minutes. `epoch` is the product's loop in float32 with its validation; `steps` are that loop's steps in three
precisions, with and without CUDA graphs (`graph` is what the product does), and compiled by `torch.compile`. The
references are eager float32 and the CPU of the same machine, in the same run; `ratio_to_cpu` is that of `epoch` in
training, and of eager float32 elsewhere. `matmul_share` is the rate of the matrix
products over that of one large product in the same precision.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.machine import machine, seconds, write
from benchmarks.on_gpu import checks, sampling, training
from benchmarks.on_gpu.device import matmul_flops
from benchmarks.on_gpu.inputs import FEW, FULL, KINDS, PRECISIONS, SAMPLER, SMALL, TOY, Sizes, Wells, demo_config
from ldm_ray.chem.molformer import MolformerConfig

CPU = torch.device("cpu")
TOY_MOLFORMER = MolformerConfig(40, 24, 2, 3, 20, num_random_features=5)


@dataclass(frozen=True)
class Plan:
    """Sizes and repetitions of a run.

    Attributes:
        checked: Wells of the checks.
        trained: Wells of training.
        on_cpu: Wells of training on the CPU.
        molformer: MoLFormer's shape.
        batches: Wells per step; the first is the demo's.
        steps: Steps timed by each way.
        cpu_steps: Steps timed on the CPU.
        conditions: Conditions sampled at once.
        matmul: Side of the large matrix product.
        rounds: Repetitions of a call.
        budget_s: Nothing more is compiled after so many seconds.
    """

    checked: Sizes
    trained: Sizes
    on_cpu: Sizes
    molformer: MolformerConfig
    batches: tuple[int, ...]
    steps: int
    cpu_steps: int
    conditions: int
    matmul: int
    rounds: int
    budget_s: float


PLANS = {
    "full": Plan(SMALL, FULL, FEW, MolformerConfig(), (256, 4096), 400, 20, 8192, 8192, 5, 360.0),
    "toy": Plan(TOY, TOY, TOY, TOY_MOLFORMER, (32,), 2, 1, 5, 64, 1, 0.0),
}


def main() -> None:
    """Measure, print the tables, and write the JSON; exit 1 if a number is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=PLANS, default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = run(arguments.size, torch.device(arguments.device))
    write(result, arguments.json)
    print(table(result))
    if result["wrong"]:
        sys.exit(f"wrong numbers: {'; '.join(result['wrong'])}")


def run(size: str, device: torch.device) -> dict[str, Any]:
    """Check and time everything on a device."""
    started, plan = time.monotonic(), PLANS[size]
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "none"
    result: dict[str, Any] = {"size": size, "gpu": name} | machine()
    result |= {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    _note("checking", started)
    result["errors"] = checks.errors(device, plan.checked, plan.molformer)
    result["changes_by_graphs"] = checks.changes_by_graphs(device, plan.checked)
    changed = [f"graphs change {name}" for name, change in result["changes_by_graphs"].items() if change != 0.0]
    result["wrong"] = checks.too_large(result["errors"]) + changed
    result["matmul_tflops"] = {kind: matmul_flops(kind, device, plan.matmul) / 1e12 for kind in PRECISIONS}
    wells = Wells(plan.trained, demo_config(*plan.trained.settings), device, drawn_on=device)
    result["wells"] = plan.trained.wells
    for kind in KINDS:
        result[kind] = _training(plan, wells, kind, result["matmul_tflops"], started)
    result["sampling"] = _sampling(plan, wells, result["matmul_tflops"], started)
    result["molformer"] = _molformer(plan, device, started)
    return result | {"took_s": seconds(started)}


def _training(plan: Plan, wells: Wells, kind: str, peak: dict[str, float], started: float) -> dict[str, Any]:
    _note(f"training {kind}", started)
    found: dict[str, Any] = {"epoch": training.epoch(wells, kind, plan.batches[0]), "steps": {}}
    small = Wells(plan.on_cpu, wells.config, CPU, CPU)
    for batch in plan.batches:
        source = wells.source(kind, batch)
        anatomy = training.anatomy(wells, source, kind)
        rows: dict[str, Any] = {}
        for number in PRECISIONS:
            ways = _ways(wells.device, ("graph", "compiled graph"), number, started, plan)
            rows |= {
                f"{number} {way}": row
                for way, row in training.steps(wells, source, kind, ways, number, plan.steps).items()
            }
        _add_ratios(rows, "wells_per_s", anatomy["step_flops"] / batch, peak)
        for row in rows.values():
            if "wells_per_s" in row:
                row["epoch_s"] = plan.trained.wells / row["wells_per_s"]
        found["steps"][str(batch)] = anatomy | {"ways": rows}
        _note(f"  {kind} {batch} done", started)
    slow = training.steps(small, small.source(kind, plan.batches[0]), kind, ["eager"], "fp32", plan.cpu_steps)
    found["cpu_wells_per_s"] = slow["eager"]["wells_per_s"]
    found["ratio_to_cpu"] = found["epoch"]["wells_per_s"] / found["cpu_wells_per_s"]
    return found


def _sampling(plan: Plan, wells: Wells, peak: dict[str, float], started: float) -> dict[str, Any]:
    _note("sampling", started)
    anatomy = sampling.anatomy(wells, plan.conditions)
    n_profiles = plan.conditions * wells.config.predict.n_samples
    rows: dict[str, Any] = {}
    for number in PRECISIONS:
        ways = _ways(wells.device, ("graph", "compiled graph"), number, started, plan)
        found = sampling.profiles(wells, plan.conditions, number, ways, plan.rounds)
        rows |= {f"{number} {way}": row for way, row in found.items()}
    _add_ratios(rows, "profiles_per_s", anatomy["call_flops"] / n_profiles, peak)
    small = Wells(wells.sizes, wells.config, CPU, CPU)
    slow = sampling.profiles(small, min(512, plan.conditions), "fp32", ["eager"], 1)["eager"]["profiles_per_s"]
    return anatomy | {
        "sampler": f"{SAMPLER.kind}, {SAMPLER.steps} steps, {wells.config.predict.n_samples} samples a condition",
        "conditions": plan.conditions,
        "ways": rows,
        "cpu_profiles_per_s": slow,
        "ratio_to_cpu": rows["fp32 eager"]["profiles_per_s"] / slow,
    }


def _molformer(plan: Plan, device: torch.device, started: float) -> dict[str, Any]:
    _note("MoLFormer", started)
    rows: dict[str, Any] = {}
    for number in PRECISIONS:
        ways = _ways(device, ("compiled",), number, started, plan)
        found = sampling.molecules(plan.molformer, device, number, ways, plan.rounds)
        rows |= {f"{number} {way}": row for way, row in found.items()}
    _add_ratios(rows, "molecules_per_s")
    slow = sampling.molecules(plan.molformer, CPU, "fp32", ["eager"], 1)["eager"]["molecules_per_s"]
    return {"ways": rows, "cpu_molecules_per_s": slow, "ratio_to_cpu": rows["fp32 eager"]["molecules_per_s"] / slow}


def _ways(device: torch.device, others: tuple[str, ...], number: str, started: float, plan: Plan) -> list[str]:
    """Return the ways to time: only eager on a CPU; tf32 is not compiled, nor anything late in the run."""
    late = number == "tf32" or seconds(started) > plan.budget_s
    return ["eager", *(way for way in others if device.type == "cuda" and not (late and "compiled" in way))]


def _add_ratios(rows: dict[str, Any], key: str, flops: float = 0.0, peak: dict[str, float] | None = None) -> None:
    """Add each rate's ratio to eager float32, and its share of the matmul peak."""
    for name, row in rows.items():
        if key in row:
            row["ratio_to_eager_fp32"] = row[key] / rows["fp32 eager"][key]
            if peak:
                row["matmul_share"] = row[key] * flops / 1e12 / peak[name.split()[0]]


def table(result: dict[str, Any]) -> str:
    """Return the figures as tables."""
    peaks = ", ".join(f"{kind} {value:,.0f}" for kind, value in result["matmul_tflops"].items())
    lines = [f"{result['gpu']}, torch {result['torch']}; matmul TFLOP/s: {peaks}", "", "| error | fp32 | tf32 | bf16 |"]
    lines += [
        f"| {name} | {' | '.join(f'{row[kind]:.0e}' if kind in row else '' for kind in PRECISIONS)} |"
        for name, row in result["errors"].items()
    ]
    for kind in KINDS:
        for batch, found in result[kind]["steps"].items():
            lines += ["", f"{kind}, {batch} wells a step"]
            lines += _rows(found["ways"])
    for name in ("sampling", "molformer"):
        lines += ["", name, *_rows(result[name]["ways"])]
    return "\n".join(lines)


def _rows(ways: dict[str, Any]) -> list[str]:
    return [
        f"| {name} | {' | '.join(f'{key} {_short(value)}' for key, value in row.items())} |"
        for name, row in ways.items()
    ]


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _note(what: str, started: float) -> None:
    print(f"{seconds(started):6.1f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
