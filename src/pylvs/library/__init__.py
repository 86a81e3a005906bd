"""The Python library: what `import pylvs` offers to other programs, over the model and the data plane."""
