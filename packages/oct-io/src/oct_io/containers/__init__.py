"""Files of other programs that hold arrays or tables: bytes in, numbers and texts out.

`matlab` reads the arrays of .mat files, `metaimage` the text header of .mhd, `spreadsheets` the
first sheet of an .xlsx. Sizes are checked before anything is unpacked, and nothing in a file can
run. The readers and the recipes of data sets build on this wing; it knows bytes and errors alone.
"""
