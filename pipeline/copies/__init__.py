"""Copies of an output in few large files: for analytics and training, not for resuming.

parts.py     a copy and its files, each of which says which rows of which span files it holds
survey.py    what a copy lacks, and which of its files no longer fit
rows.py      rows of span files, with their pictures
writer.py    rows to Parquet files of bounded size, in row groups for scans
"""
