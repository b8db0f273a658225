"""Measure whether synthesized pairs help a segmenter: the experiment of Abhishek and Hamarneh 2019, arXiv:1906.05845.

Segmenters of one size are trained for the same number of steps with and without synthesized pairs, at several
fractions of the real ones, and tested on real pairs held out. The modules, from below: `arms` and `plan` say what is
trained, `data`, `masks` and `batches` on what, `experiment` trains and keeps each cell, `statistics` compares,
`result` holds the outcome, `report` and `plot` show it.
"""
