"""Make every stratdiff/... set and print the table of docs/datasets.md.

python docs/figures/made_sets.py [WORD]      # with WORD: only names that contain it
"""

import sys
import time

from stratdiff import load_dataset
from stratdiff.data.made import recipes, store
from stratdiff.data.tools import info
from stratdiff.policy import Policy
from stratdiff.tasks import find_task


def main() -> None:
    """One line a set."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    print("| name | rows | episodes | score: mean (lowest to highest) | shift | spread | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, recipe in recipes.RECIPES.items():
        if word not in name:
            continue
        start = time.perf_counter()
        made = not store.cached(name).is_file()
        store.make(name)
        seconds = f"{time.perf_counter() - start:.0f}" if made else ""
        dataset = load_dataset(name)
        found = info.describe(dataset, find_task(recipe.env_id))
        score, gap = found.scores, found.distance
        scores = f"{score.mean:.1f} ({score.min:.0f} to {score.max:.0f})" if score else ""
        shift = f"{gap.shift_median:.2f} / {gap.shift_rms:.2f} / {gap.shift_max:.2f}" if gap else ""
        spread = f"{min(gap.std_ratio):.2f} to {max(gap.std_ratio):.2f}" if gap else ""
        cells = [f"`{name}`", f"{found.rows:,}", f"{found.episodes:,}", scores, shift, spread]
        print("|", " | ".join([*cells, seconds]), "|", flush=True)
    for family in ("halfcheetah", "hopper", "walker2d", "ant"):
        about = Policy.load(recipes.SNAPSHOTS / f"{family}.safetensors").metadata
        print(f"\n{family}: {about}")


if __name__ == "__main__":
    main()
