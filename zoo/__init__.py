"""Recipes that train what the package ships: run from a clone, e.g. `python -m zoo.train_stylegan2 --help`."""
