"""The kernel that is taken beside every other, at shapes of training and sampling: one JSON line for each product.

    python benchmarks/kernels.py --threads 1

Kernels take turns in one process. `slower` is the time of the kernel that is taken over that of the best one; the
choice is made (and kept in ALIGNBENCH_CACHE) before the turns, on the smaller product that stands for the class.
`--rows`, `--in` and `--out` add a shape. benchmarks/README.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

SHAPES = [
    *((64, n_in, n_out) for n_in, n_out in ((128, 512), (512, 128), (128, 2048))),
    *((704, n_in, n_out) for n_in, n_out in ((128, 128), (128, 512), (512, 128))),
    (480, 128, 2048),
    *((rows, n_in, n_out) for rows in (16, 50, 176, 700) for n_in, n_out in ((768, 768), (768, 3072), (3072, 768))),
    *((rows, 768, 50257) for rows in (16, 50, 120)),
]
"""Rows, in and out of tiny and of 125m (`ppo_work.py`), while sampling and while training."""


def main() -> None:
    """Measures, and prints."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--shape", type=int, nargs=3, metavar=("ROWS", "IN", "OUT"), help="in place of all others")
    given = arguments.parse_args()
    import torch

    from alignbench.models.fast import layers

    torch.set_num_threads(given.threads)
    clock = time.thread_time if given.threads == 1 else time.perf_counter
    for shape in [tuple(given.shape)] if given.shape else SHAPES:
        for use in ("forward", "frozen", "trained"):
            product = layers.Product(*shape, use)
            if product.rows * product.n_in * product.n_out < layers.SMALLEST:
                continue
            taken = layers.choice.kernel_for(*product)
            kernels = layers.trial(product)
            seconds: dict[str, list[float]] = {name: [] for name in kernels}
            for _ in range(given.rounds):
                for name, multiply in kernels.items():
                    started = clock()
                    multiply()
                    seconds[name].append(clock() - started)
            middle = {name: statistics.median(found[1:]) for name, found in seconds.items()}
            rates = {name: round(product.gflop_per_s(one), 1) for name, one in middle.items()}
            slower = round(middle[taken] / min(middle.values()), 3)
            print(
                json.dumps({"product": str(product), "taken": taken, "slower": slower, "gflop_per_s": rates}),
                flush=True,
            )


if __name__ == "__main__":
    main()
