r"""Prepare a dataset.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/prepare.py --gctx G --inst-info I --pert-info P --gene-info F --out D

Arguments are those of `ldm-ray prepare`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("prepare")
