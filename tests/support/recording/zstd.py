"""The standard library's compression.zstd, which Pythons before 3.14 have from backports.zstd."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor, compress, decompress
else:
    from backports.zstd import ZstdCompressor, compress, decompress

__all__ = ["ZstdCompressor", "compress", "decompress"]
