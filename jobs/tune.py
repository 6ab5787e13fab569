r"""Search settings.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/tune.py --data D --out O --config C

Arguments are those of `ldm-ray tune`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("tune")
