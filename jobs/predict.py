"""Bulk prediction: `ray job submit --working-dir . -- python jobs/predict.py --bundle B --conditions T --out O`."""

import sys

from ldm_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "predict")
    main()
