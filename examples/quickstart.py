"""The package from Python: load a data set, train, read the scores, act in an environment."""

import sys

import gymnasium

import stratdiff


def main(
    out: str = "runs/quickstart", name: str = "stratdiff/halfcheetah-medium-replay", **options
):
    """Train on a data set, by its name or path; `options` go to `stratdiff.make_config`."""
    dataset = stratdiff.load_dataset(name)
    config = stratdiff.make_config("demo", dataset=name, base="iql", **options)
    result = stratdiff.train(config, out, dataset)
    print(result.scores)

    env = gymnasium.make(result.config.env)
    obs, _ = env.reset(seed=0)
    obs, reward, *_ = env.step(result.policy(obs))
    print("first reward", reward)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
