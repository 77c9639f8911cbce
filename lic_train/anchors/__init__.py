"""Classical codecs, run here on the same pictures as a model: real files, decoded again, measured alike.

``python -m lic_train.anchors --set kodak`` makes the curves; those of Kodak are versioned in ``kodak/``.
"""
