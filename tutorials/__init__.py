"""The lessons' own tools: `check` an exercise, `show_solution`, `show_source`. See README.md."""

from tutorials.tools.exercises import check, show_solution, show_source

__all__ = ["check", "show_solution", "show_source"]
