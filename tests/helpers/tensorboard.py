"""Read TensorBoard's event files without TensorBoard."""

import io
import struct

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """The events of all files in a folder, in the order of their names."""
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)  # then 4 bytes of checksum
            yield Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length


def _values(folder, read):
    """``{tag: [(step, value)]}`` in the order of steps, of the values that ``read`` takes."""
    result = {}
    for event in events(folder):
        for value in event.summary.value:
            found = read(value)
            if found is not None:
                result.setdefault(value.tag, []).append((event.step, found))
    return {tag: sorted(values) for tag, values in result.items()}


def scalars(folder):
    return _values(
        folder, lambda value: value.simple_value if value.HasField("simple_value") else None
    )


def images(folder):
    """PNG files as bytes."""
    return _values(
        folder, lambda value: value.image.encoded_image_string if value.HasField("image") else None
    )


def texts(folder):
    return _values(
        folder,
        lambda value: value.tensor.string_val[0].decode() if value.HasField("tensor") else None,
    )


def decode_image(png):
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(png)))
