"""Search settings: `ray job submit --working-dir . -- python jobs/tune.py --data D --out O --config C`."""

import sys

from ldm_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "tune")
    main()
