"""What the lessons are made with: exercises and their checks, pictures, and the notebooks."""
