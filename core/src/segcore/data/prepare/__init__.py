"""Published annotations -> the files that the data sets read (docs/protocol 1.3), one file per data set.

Worker processes import these files, so none of them imports torch before a job needs it.
"""
