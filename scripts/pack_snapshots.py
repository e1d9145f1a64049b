"""Stack the policies of a SAC run into the snapshot file that ships with the package.

    python scripts/pack_snapshots.py RUN_DIR OUT.safetensors --every 10000

The run must have been made with `--save-policies True`; docs/datasets.md has the command.
"""

import argparse
from pathlib import Path

import numpy as np

from stratdiff.policy import Policy


def main() -> None:
    """Keep every n-th step, weights in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=10_000)
    args = parser.parse_args()
    found = [Policy.load(path) for path in sorted((args.run / "policies").glob("*.safetensors"))]
    kept = [p for p in found if p.metadata["step"] > 0 and p.metadata["step"] % args.every == 0]
    stacked = Policy(
        kept[0].kind,
        [
            (
                np.concatenate([p.layers[i][0] for p in kept]).astype(np.float16),
                np.concatenate([p.layers[i][1] for p in kept]).astype(np.float16),
            )
            for i in range(len(kept[0].layers))
        ],
        kept[0].obs_mean,
        kept[0].obs_std,
        metadata={
            "environment": kept[0].metadata["environment"],
            "steps": [p.metadata["step"] for p in kept],
            "scores": [round(p.metadata["score"][0], 2) for p in kept],
        },
    )
    stacked.save(args.out)
    print(f"{len(kept)} policies, {args.out.stat().st_size / 1e6:.2f} MB, {stacked.metadata}")


if __name__ == "__main__":
    main()
