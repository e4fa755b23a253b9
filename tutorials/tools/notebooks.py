"""From a lesson's script to its notebook: `python -m tutorials.tools.notebooks` after every edit.

A lesson is written as a script in jupytext's percent format, which can be read, compared and run as
it is; the notebook beside it is made from it and holds no outputs. Needs jupytext (the `tutorials`
extra).
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def lessons() -> list[Path]:
    """The scripts of all lessons, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def notebook_of(script: Path) -> str:
    """The notebook of a script, as the text of its file. The same script gives the same bytes."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(script.read_text("utf-8"), fmt="py:percent")
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number:02}"  # jupytext's own are random
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def main() -> None:
    """Write the notebook of every lesson."""
    for script in lessons():
        script.with_suffix(".ipynb").write_text(notebook_of(script), "utf-8", newline="\n")
        print(script.with_suffix(".ipynb").relative_to(FOLDER.parent))


if __name__ == "__main__":
    main()
