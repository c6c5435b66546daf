"""Records what the trainers of `trl.experimental` make of the log-probabilities of pairs: `python THIS_FILE`.

Their package may go in any release, so what they computed in TRL 1.16 is kept: losses of CPO, SimPO and ORPO without
the imitation that is added to them, as functions of log-probabilities in float64.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

FILE = Path(__file__).with_name("trl_pair_losses.json")
N_PAIRS = 6


def main() -> None:
    source = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (2, N_PAIRS), generator=source)
    means = -3 * torch.rand(2, N_PAIRS, generator=source, dtype=torch.float64) - 0.05
    sums = means * lengths
    trainer = {"accelerator": SimpleNamespace(device="cpu"), "alpha": 0.0, "label_smoothing": 0.0}
    cpo = SimpleNamespace(**trainer, loss_type="sigmoid", beta=0.3)
    simpo = SimpleNamespace(**trainer, loss_type="simpo", beta=2.5, simpo_gamma=1.375)
    orpo = SimpleNamespace(**trainer, beta=0.4)
    found = {
        "cpo": CPOTrainer.cpo_loss(cpo, *sums)[0],
        "simpo": CPOTrainer.cpo_loss(simpo, *means)[0],
        "orpo": -ORPOTrainer.odds_ratio_loss(orpo, *means)[0],  # it is subtracted from the imitation
    }
    settings = {"cpo": {"beta": 0.3}, "simpo": {"beta": 2.5, "gamma": 1.375}, "orpo": {"weight": 0.4}}
    record = {
        "trl": trl.__version__,
        "lengths": lengths.T.tolist(),
        "logprobs": sums.T.tolist(),
        "settings": settings,
        "losses": {name: value.tolist() for name, value in found.items()},
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
