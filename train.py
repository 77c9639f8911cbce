"""``python train.py model=cwam lambda=0.0067`` is the same as ``lic train``; the body is lic_train/train.py."""

from lic_train.train import main

if __name__ == "__main__":
    main()
