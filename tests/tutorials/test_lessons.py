"""Every lesson keeps the form that tutorials/README.md promises, and runs from its source.

The notebooks themselves are run in the slow tier, and their exercises once more with the solutions
in place of the stubs; lesson 1 is quick enough to be run as a script here.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tutorials.tools.exercises import EXERCISES, SOLUTIONS
from tutorials.tools.notebooks import lessons, notebook_of

ROOT = Path(__file__).parents[2]
LESSONS = lessons()
NAMES = [lesson.stem for lesson in LESSONS]
STUB = re.compile(r"^def (my_\w+)\(", re.M)


def cells_of(lesson: Path) -> list[dict]:
    return json.loads(lesson.with_suffix(".ipynb").read_text("utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_lessons():
    assert [name[:2] for name in NAMES] == [f"{i:02}" for i in range(1, len(NAMES) + 1)] != []
    assert {name[:2] for name in EXERCISES} == {name[:2] for name in NAMES}


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_notebook_is_made_from_its_script(lesson):
    pytest.importorskip("jupytext", reason="jupytext is not installed: the `tutorials` extra")
    made = notebook_of(lesson)
    assert lesson.with_suffix(".ipynb").read_text("utf-8") == made, (
        "run python -m tutorials.tools.notebooks"
    )


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_the_form_of_a_lesson(lesson):
    cells = cells_of(lesson)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) <= 40
    lines = [line for cell in code for line in source(cell).splitlines()]
    assert len([s for s in lines if s.strip() and not s.strip().startswith("#")]) <= 200
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    first = source(cells[0])
    for part in ("What you will build", "What you need to know", "Contents"):
        assert part in first
    text = "\n".join(source(cell) for cell in cells)
    ends = [text.index(f"## {part}") for part in ("Summary", "Exercises", "The library's own")]
    assert ends == sorted(ends)
    assert "show_source(" in source(cells[-1])
    assert re.search(r"^class ", "\n".join(map(source, code)), re.M) is None  # the library's only


def test_all_lessons_have_the_same_set_up():
    starts = {source(cells_of(lesson)[1]).split("# What this lesson uses")[0] for lesson in LESSONS}
    assert len(starts) == 1 and "REPOSITORY" in starts.pop()


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_each_exercise_has_a_stub_with_its_check(lesson):
    number = lesson.stem[:2]
    stubs = {}
    for cell in cells_of(lesson):
        if STUB.search(source(cell)):
            name = re.search(r'check\("([\d.]+)", (my_\w+)\)', source(cell))
            stubs[name[1]] = name[2]
            signature = EXERCISES[name[1]].signature.partition(" -> ")[0]
            assert f"def {signature}:" in source(cell).replace("\n" + " " * 13, " ")
    assert sorted(stubs) == sorted(name for name in EXERCISES if name.startswith(number))


def test_lesson_1_runs_as_a_script():
    run = subprocess.run(
        [sys.executable, LESSONS[0]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("[picture: ") >= 6
    assert "dw = -18" in run.stdout
    error = float(re.search(r"largest error: (\S+)", run.stdout)[1])
    assert error < 1e-9


# --- the notebooks, by nbclient


def run_notebook(lesson: Path, folder: Path, cells: list[str] | None = None):
    """Run a notebook, or some cells of code in its place, in a fast setting; what it writes goes to
    `folder`. Returns it with its outputs.
    """
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: `tutorials`")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(lesson.with_suffix(".ipynb"), as_version=4)
    if cells is not None:
        notebook.cells = [nbformat.v4.new_code_cell(text) for text in cells]
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(lesson.parent)}}
    )
    client.execute(env={**os.environ, "MINIGPT_LESSON_TEST": str(folder)})
    return notebook


def solved(lesson: Path) -> list[str]:
    """The set-up of a lesson, and its exercises with a solution in place of each stub."""
    answers = {answer.__name__: answer for answer in SOLUTIONS.values()}
    cells = [source(cells_of(lesson)[1])]
    for text in map(source, cells_of(lesson)):
        stub = STUB.search(text)
        if stub is not None:
            answer = inspect.getsource(answers[stub[1]])
            cells.append(answer + text[text.index("\ncheck(") :])
    return cells


def printed(notebook) -> str:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_notebook_runs_as_it_is(lesson, tmp_path):
    notebook = run_notebook(lesson, tmp_path)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    pictures = [out["data"]["text/html"] for out in outputs if "<img" in str(out.get("data"))]
    assert len(pictures) >= 6
    for picture in pictures:
        assert len(re.search(r'alt="([^"]*)"', picture)[1]) > 60
    assert not any("image/png" in out.get("data", {}) for out in outputs)   # all have their text
    number = len([name for name in EXERCISES if name.startswith(lesson.stem[:2])])
    assert printed(notebook).count("not yet.") == number


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_the_exercises_of_a_notebook_accept_the_solutions(lesson, tmp_path):
    told = printed(run_notebook(lesson, tmp_path, solved(lesson)))
    number = len([name for name in EXERCISES if name.startswith(lesson.stem[:2])])
    assert told.count("right!") == number and "not yet." not in told


@pytest.mark.slow
def test_a_lesson_that_stands_alone_fetches_the_repository(tmp_path):
    """The set-up cell as in a hosted notebook: another folder, a clone, and nothing importable."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to clone")
    clone = tmp_path / "origin"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    cell = source(cells_of(LESSONS[0])[1])
    cell = cell.replace('REPOSITORY = ""', f"REPOSITORY = {clone.as_uri()!r}")
    alone = tmp_path / "alone"
    alone.mkdir()
    # Twice, as after a restart of the kernel: what was fetched is found again.
    (alone / "cell.py").write_text(f"cell = {cell!r}\nexec(cell)\nexec(cell)\nprint(check)\n")
    run = subprocess.run(
        [sys.executable, "-P", "cell.py"], cwd=alone, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert (alone / "minigpt-repository" / "tutorials" / "tools" / "exercises.py").is_file()


def test_a_lesson_that_stands_alone_asks_for_the_address(tmp_path):
    cell = source(cells_of(LESSONS[0])[1])
    run = subprocess.run(
        [sys.executable, "-c", cell], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert run.stderr == (
        "This notebook stands alone: write the repository's address in REPOSITORY\n"
    )
