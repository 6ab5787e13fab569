r"""Reproduce section 3 of the paper, or continue where an interrupted campaign stopped.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/reproduce.py --data D --out O

Arguments are those of `ldm-ray reproduce`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("reproduce")
