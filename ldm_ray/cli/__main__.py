"""Runs the command line by `python -m ldm_ray.cli`."""

from ldm_ray.cli.app import main

if __name__ == "__main__":
    main()
