r"""Train the diffusion model.

    ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python jobs/train_ldm.py --data D --vae V --out L

Arguments are those of `ldm-ray train ldm`; files and settings may be URLs. The last line of the log is one JSON object.
"""

from ldm_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("train", "ldm")
