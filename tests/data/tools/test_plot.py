"""The picture of a data set."""

import matplotlib
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest
from test_info import HOPPER, make

from stratdiff.data.tools import plot
from stratdiff.errors import UserError


def pictures():
    n = 400
    rng = np.random.default_rng(0)
    none, last = np.zeros(n, bool), np.arange(n) == n - 1
    fours = np.arange(n) % 4 == 3
    ant = np.concatenate([rng.uniform(-1, 9, (n, 2)), rng.normal(size=(n, 27))], 1)
    return {
        "usual": make(fours, none, env_id="Hopper-v4"),
        "one-episode": make(none, last),
        "none-complete": make(none, none),
        "same-returns": make(fours, none, rewards=np.ones(n)),
        "constant-dimension": make(fours, none, obs=np.stack([np.ones(n), np.arange(n)], 1)),
        "one-dimension": make(fours, none, obs=rng.normal(size=(n, 1))),
        "constant": make(fours, none, obs=np.ones((n, 2))),
        "two-rows": make([0, 1], [0, 0]),
        "maze": make(fours, none, env_id="stratdiff/AntMaze-eval-umaze-v2", obs=ant),
    }


@pytest.mark.parametrize("name", pictures())
def test_plot(tmp_path, name):
    out = tmp_path / "deeper" / "out.png"
    plot.plot(pictures()[name], HOPPER, out)
    image = matplotlib.image.imread(out)
    assert image.shape[0] > 400 and image.shape[1] > 1200 and image[..., :3].std() > 0.05
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]


def texts(figure):
    return {t.get_text() for t in figure.findobj(matplotlib.text.Text)}


def test_plot_labels(tmp_path, monkeypatch):
    """Axes are named, with units; nothing of pyplot is touched."""
    seen = []
    save = plot.Figure.savefig
    monkeypatch.setattr(
        plot.Figure,
        "savefig",
        lambda self, *a, **k: (seen.append(texts(self)), save(self, *a, **k)),
    )
    backend = matplotlib.get_backend()
    data = pictures()
    plot.plot(data["usual"], HOPPER, tmp_path / "a.png")
    plot.plot(data["usual"], None, tmp_path / "b.png")
    plot.plot(data["maze"], None, tmp_path / "c.png")
    assert {"normalised score", "episodes", "episode", "rows per bin"} <= seen[0]
    assert "normalised score" not in seen[1] and "return" in seen[1]
    assert any(text.startswith("1st principal component") for text in seen[1])
    assert {"x (m)", "y (m)", "start", "goals"} <= seen[2]
    assert matplotlib.get_backend() == backend and not matplotlib._pylab_helpers.Gcf.figs


def test_plot_as_svg(tmp_path):
    plot.plot(pictures()["usual"], None, tmp_path / "out.SVG")
    assert "<svg" in (tmp_path / "out.SVG").read_text()[:2000]


def test_plot_refuses(tmp_path):
    data = pictures()["usual"]
    with pytest.raises(UserError, match=r"ends in '.gif'; it must end in .png, .svg, .pdf"):
        plot.plot(data, None, tmp_path / "out.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        plot.plot(data, None, tmp_path / "file" / "out.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
