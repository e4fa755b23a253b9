"""One solution of each exercise: what `show_solution` shows. Try the exercise first."""
