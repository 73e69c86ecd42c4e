"""Builders of data: the open head model, and later the data sets and occluders for training and evaluation."""
