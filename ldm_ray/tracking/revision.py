"""Which source code is running."""

import os
import subprocess
from pathlib import Path

TIMEOUT_S = 5.0


def source_revision(source: Path = Path(__file__).parents[1]) -> str:
    """Return the git revision of a source file or folder, with `-dirty` if tracked files have changed.

    Args:
        source: The installed package.

    Returns:
        40 hexadecimal digits, with `-dirty` if changed; empty if git does not track the source, as for an installed
        wheel, even if its environment lies inside a checkout.
    """
    folder = source if source.is_dir() else source.parent
    # Git hooks set these, and they may name another checkout.
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
