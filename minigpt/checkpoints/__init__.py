"""Reading and writing weights: one module a file format.

Every reader takes its file for hostile until checked (sizes against the file, shapes against the
bytes) and yields plain NumPy arrays by name; what the names mean is the model's business.
"""
