"""Take out of a SIF what differs between two builds of the same content: an identifier and moments.

What is zeroed: in the header the UUID and the times of creation and change, in each descriptor its two times. The format is
that of github.com/apptainer/sif, version 01. The content is not touched; a signature would no longer hold, so sign after.
"""

import struct
import sys

MAGIC = b"SIF_MAGIC\0"
# launch script 32, magic 10, version 3, architecture 3, UUID 16, two times of 8, then six numbers of 8
_UUID_AND_TIMES = (48, 32)
_NUMBERS = 80
_DESCRIPTOR = 585
# type 4, used 1, id 4, group 4, link 4, offset 8, size 8, size with padding 8, then two times of 8
_USED = 4
_TIMES = (41, 16)


def normalise(path):
    """Zero the identifier and the moments of the SIF at `path`; raises ValueError for another file."""
    with open(path, "r+b") as image:
        header = image.read(128)
        if header[32:42] != MAGIC or len(header) < 128:
            raise ValueError("{}: not a SIF".format(path))
        total, start, size = struct.unpack_from("<qqq", header, _NUMBERS + 8)
        if total < 1 or size < total * _DESCRIPTOR:
            raise ValueError("{}: {} descriptors in {} bytes".format(path, total, size))
        _zero(image, 0, _UUID_AND_TIMES)
        for number in range(total):
            at = start + number * _DESCRIPTOR
            image.seek(at + _USED)
            if image.read(1) != b"\0":
                _zero(image, at, _TIMES)


def _zero(image, at, span):
    image.seek(at + span[0])
    image.write(bytes(span[1]))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        normalise(name)
