"""``python train.py model=cwam lambda=0.0067`` is the same as ``lic train``; the body is lic_train/train.py."""

import sys

from lic_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], program=sys.argv[0]))
