"""Classical codecs as reference curves: real files, decoded again and measured like a model's, on the same pictures.

``lic anchors --set kodak`` makes the curves. The curves of Kodak are part of the package, in ``kodak/``.
"""
