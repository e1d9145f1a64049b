"""What MkDocs does besides: pages made from the code, the notebook and the files of the root."""

import contextlib
import importlib
import io
import os
import re
from pathlib import Path

import nbconvert
from latex2mathml.converter import convert
from mkdocs.structure.files import File

import stratdiff
from stratdiff import cli

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages under another name.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
PROTOCOLS = (
    "stratdiff.agents.base.Agent",
    "stratdiff.scores.base.Score",
    "stratdiff.splits.Split",
    "stratdiff.sinks.base.Sink",
    "stratdiff.data.sources.Source",
)


def on_files(files, config):
    """Add the pages that have no file of their own in docs/."""

    def add(name, content):
        files.append(File.generated(config, name, content=content))

    for source, page in PAGES.items():
        if source.endswith(".md"):
            add(page, (ROOT / source).read_text(encoding="utf-8"))
    text, resources = nbconvert.MarkdownExporter().from_filename(ROOT / "docs" / "tutorial.ipynb")
    add("tutorial.md", text)
    for name, content in resources["outputs"].items():
        add(name, content)
    add("cli.md", command_line())
    add("api.md", python_api())
    return files


def on_page_markdown(markdown, page, **_):
    """Links of the repository become links of the site; formulas become MathML."""
    from_root = {new: old for old, new in PAGES.items()}.get(page.file.src_uri)
    here = (ROOT / (from_root or f"docs/{page.file.src_uri}")).parent
    markdown = re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)",
        lambda link: rewritten(link, here),
        markdown,
    )
    if here == ROOT:
        markdown = markdown.replace("](docs/images/", "](images/")
    return re.sub(r"\$\$(.+?)\$\$", formula, markdown, flags=re.S)


def rewritten(link, here):
    """A link to another page leads there; one to a file that is no page is its text alone."""
    label, target, anchor = link.groups()
    if not (here / target).exists():  # MkDocs says so, if it is a link at all
        return link[0]
    target = (here / target).resolve().relative_to(ROOT).as_posix()
    page = PAGES.get(target, target.removeprefix("docs/"))
    return f"[{label}]({page}{anchor or ''})" if page != target else label


def formula(found):
    """Display mathematics for browsers, which need no script for it."""
    return f'<div class="formula">{convert(found[1].strip(), display="block")}</div>'


def command_line():
    """`--help` of every command, in 80 columns."""
    commands = []
    for name, module in cli._COMMANDS.items():
        module = importlib.import_module(f"stratdiff.cli.{module}")
        commands += [(name,), *((name, part) for part in getattr(module, "_COMMANDS", ()))]
    text = f"# Command line\n\n```text\n{cli.USAGE}```\n"
    for command in commands:
        text += f"\n## stratdiff {' '.join(command)}\n\n```text\n{help_of(*command)}\n```\n"
    return text


def help_of(*command):
    """What a command prints for `--help`."""
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    return out.getvalue().strip()


def python_api():
    """The public names and the protocols, as mkdocstrings writes them."""
    text = "# Python API\n\nEverything here but the protocols is imported from `stratdiff`.\n"
    for name, module in stratdiff._PUBLIC.items():
        text += f"\n::: {module}.{name}\n"
    text += "\n## Protocols\n\n[Extending](extending.md) shows a complete part of each kind.\n"
    return text + "".join(f"\n::: {name}\n" for name in PROTOCOLS)
