"""Claims of the papers whose networks `vision` holds, tried small: one command each.

    python -m benchmarks.claims.glorot       # Glorot & Bengio 2010
    python -m benchmarks.claims.batchnorm    # Ioffe & Szegedy 2015
    python -m benchmarks.claims.vgg          # Simonyan & Zisserman 2014
    python -m benchmarks.claims.resnet       # He et al. 2016

Each draws its own images, trains over several seeds, prints a table with 95% intervals, says which
claims hold at this scale and which don't, and saves a picture.
"""
