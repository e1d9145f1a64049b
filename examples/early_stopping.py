"""Callbacks: print every evaluation, and end a run as soon as its score is good enough."""

import sys

import stratdiff


def main(out="runs/early", enough=60.0, name="stratdiff/halfcheetah-medium-replay", **options):
    """Train until the mean score of the seeds is `enough`; `options` go to `make_config`."""

    def on_eval(point, metrics):
        """Called after every evaluation; `metrics` are arrays with one value a seed."""
        score = metrics["score"].mean()
        print(f"{point.phase} step {point.step:,}: score {score:.1f}")
        return score >= enough  # true in the online phase: the run ends here

    config = stratdiff.make_config("demo", dataset=name, score="support", **options)
    result = stratdiff.train(config, out, on_eval=on_eval)
    done, planned = result.summary["online_steps"], config.online_steps
    print(f"ended after {done:,} of {planned:,} online steps")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
