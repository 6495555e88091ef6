"""What the backward pass holds, by counting: four whole plans, or one tile."""

TITLE = "Memory of the backward pass, one head, float32"
HEADER = ("quantity", "four whole plans, MiB", "one tile, MiB")
LENGTH, BAND_WIDTH, BLOCK, DEPTH, BASE_STEPS, TAIL_STEPS = 16_384, 256, 128, 64, 20, 2


def rows(smoke=False):
    del smoke
    length, width = LENGTH, BAND_WIDTH
    entries = length * (2 * width + 1) - width * (width + 1)  # pairs |i - j| <= W
    tile = BLOCK * (BLOCK + 2 * width)
    vectors = 2 * (TAIL_STEPS + 1) * length
    history = 2 * (BASE_STEPS + TAIL_STEPS) * length
    columns = 2 * TAIL_STEPS + 2  # of X and Y, beside the D of the cotangent and the values
    yield f"plan entries on the band ({entries:,})", _mib(4 * entries), _mib(entries)
    yield f"plans in memory at a time, blocks of {BLOCK} rows", _mib(4 * tile), _mib(tile)
    yield f"potentials of {TAIL_STEPS} steps", _mib(vectors), _mib(vectors)
    yield "modifier factors X and Y", "-", _mib(2 * length * (DEPTH + columns))
    yield f"potentials of all {BASE_STEPS + TAIL_STEPS} steps", _mib(history), "not kept"
    yield "queries, keys, values", _mib(3 * length * DEPTH), _mib(3 * length * DEPTH)


def _mib(numbers):
    return f"{numbers * 4 / 2**20:.2f}"
