r"""Run the pipeline, or resume it at the step where it was interrupted.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/pipeline.py --out O

Arguments are those of `ldm-ray pipeline`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("pipeline")
