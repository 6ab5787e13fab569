"""Which source code is running."""

import os
import subprocess
from pathlib import Path

TIMEOUT_S = 5.0


def source_revision(source: Path = Path(__file__).parents[1]) -> str:
    """Return the git revision that a source file or folder is of, with `-dirty` if tracked files have changed.

    Args:
        source: The installed package.

    Returns:
        40 hexadecimal digits and maybe `-dirty`; empty where the source is not in a git checkout, as an installed
        wheel is not, even if its environment lies inside one.
    """
    folder = source if source.is_dir() else source.parent
    # A git hook sets these; they would name another checkout.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*command: str) -> str:
        full = ["git", "--no-optional-locks", "-C", str(folder), *command]
        run = subprocess.run(full, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, env=env)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "." if source.is_dir() else source.name)
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return ""
