r"""Predict many conditions.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/predict.py --bundle L --conditions T --out O

Arguments are those of `ldm-ray predict`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("predict")
