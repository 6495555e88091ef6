"""Transport on a TPU, by the Pallas kernels of `tpu_tiles.py`: how their arrays are laid out.

Products of float32 features are those of parts of 8 bits each, which the matrix unit takes at its
full speed (recurrence.md, "Tiles on a TPU"). JAX is imported where it runs.
"""

from keras_struct.ops.pallas_tpu import MEGABYTE, PallasTPU
from keras_struct.ops.transport.streamed import Streamed

# Rows of a block and columns of a tile where there is no band, or it is too wide for windows.
SIZES = ((1024, 512), (768, 384), (512, 512), (384, 384), (256, 256), (128, 128))
# Rows of a block on a band, and how many of them share a window.
BAND_ROWS, BAND_STEP = 1024, 128
CHUNK = 16 * MEGABYTE  # columns that are in VMEM at a time
SMALL = 2**16  # pairs
MOST_FEATURES = 2048


class TransportTPU(PallasTPU):
    """Makes an implementation of transport for a support.

    Attributes:
        sizes: Pairs of rows of a block and columns of a tile, of which one is taken.
        band_rows: The most rows of a block on a band.
        band_step: How many of these share a window of columns.
        chunk: Bytes of VMEM for columns.
    """

    sweeps = ()
    sizes = SIZES
    band_rows = BAND_ROWS
    band_step = BAND_STEP
    chunk = CHUNK

    def __call__(self, support, half=False):
        return Streamed(support, half, self)

    def passes(self, *arguments, **options):
        from keras_struct.ops.transport import tpu_passes

        return tpu_passes.Passes(*arguments, **options)

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is None and call.shapes[0][-1] > MOST_FEATURES:
            return f"its tiles have at most {MOST_FEATURES:,} features"
        return reason

    def avoids(self, call):
        rows, columns = (shape[1] for shape in call.shapes[:2])
        if call.option("band_width") is None and rows * columns < SMALL:
            return (
                f"it starts anew for each example, and a plan of {rows} x {columns} pairs is read "
                "from memory sooner"
            )
        return None
