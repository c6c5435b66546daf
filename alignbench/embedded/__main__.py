"""Records the embedded world anew, into this package: `python -m alignbench.embedded`, about a minute on one core.

The new world takes the place of the old one once it is complete. Results from before cannot be compared with later
ones: their fingerprints of models differ.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from alignbench.embedded.world import SHIPPED, build


def main() -> None:
    """Builds a world on one thread, since sums depend on their number, and moves it into the package."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as made:
        facts = build(Path(made))
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(made, SHIPPED, copy_function=shutil.copyfile)  # readable by all, unlike temporary files
    print(f"{SHIPPED}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()
