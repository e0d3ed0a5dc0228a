"""Picture files of every kind, written byte by byte, and the RGB pixels that they mean.

Nothing here asks Pillow: `benchmarks.faults.pictures` writes the files, and the pixels follow from
the samples by the rules of the formats. Each name says what the file is.
"""

import numpy as np

from benchmarks.faults.pictures.png import png
from benchmarks.faults.pictures.small_formats import bmp, gif, jpeg, webp
from benchmarks.faults.pictures.tiff import COMPRESSIONS, tiff

WIDTH, HEIGHT = 21, 13  # odd, so that rows of 1, 2, 4 and 12 bits end inside a byte
GREY_ALPHA, RGB, RGBA, CMYK = 2, 3, 4, 4
# Orientation -> what makes the stored picture upright (EXIF 2.32, tag 274).
TURNS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
COLOURS = [(n * 5 % 256, 255 - n * 3 % 256, n * 11 % 256) for n in range(128)]


def samples(depth, channels=1, seed=0):
    """Random samples that contain the smallest and the largest value."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 1 << depth, (HEIGHT, WIDTH, channels))
    drawn[0, 0], drawn[0, 1] = 0, (1 << depth) - 1
    return drawn


def to_8_bits(values, depth):
    """Samples of any depth as 0 to 255: few bits are spread, of many the highest 8 are taken."""
    return values * 255 // ((1 << depth) - 1) if depth < 8 else values >> (depth - 8)


def grey(values):
    return np.repeat(values[:, :, :1], 3, axis=2)


def on_white(colours, alpha):
    """Colours with an alpha of 0 to 255, on white."""
    return np.rint((colours * alpha + 255 * (255 - alpha)) / 255).astype(int)


def where(transparent, colours):
    """Colours that are white where they are transparent: (H, W) bool, (H, W, 3)."""
    return np.where(transparent[:, :, None], 255, colours)


def from_lab(lightness, a, b):
    """A colour of CIELab under D50, in sRGB."""
    y = (lightness / 2.55 + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29))
    to_srgb = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = (np.array(to_srgb) @ (xyz * [0.9642, 1, 0.8249])).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def png_cases():
    for depth in (1, 2, 4, 8, 16):
        values = samples(depth)
        shown = grey(to_8_bits(values, depth))
        yield f"PNG grey {depth}", png(values, depth), shown
        yield f"PNG grey {depth} interlaced", png(values, depth, interlaced=True), shown
        for name, hidden in (("smallest", 0), ("largest", (1 << depth) - 1), ("inner", 1)):
            data = png(values, depth, transparent=[hidden])
            yield (
                f"PNG grey {depth}, {name} transparent",
                data,
                where(values[:, :, 0] == hidden, shown),
            )
    near = samples(16)
    near[1, :4] = [[0x7F01], [0x7F02], [0x7F00], [0x80FF]]
    data = png(near, 16, transparent=[0x7F02])
    yield (
        "PNG grey 16, one of four near values transparent",
        data,
        where(near[:, :, 0] == 0x7F02, grey(near >> 8)),
    )
    for depth in (8, 16):
        for channels, name in ((RGB, "RGB"), (RGBA, "RGBA"), (GREY_ALPHA, "grey with alpha")):
            values = samples(depth, channels)
            eight = to_8_bits(values, depth)
            colours = grey(eight) if channels == GREY_ALPHA else eight[:, :, :3]
            shown = colours if channels == RGB else on_white(colours, eight[:, :, -1:])
            yield f"PNG {name} {depth}", png(values, depth), shown
            data = png(values, depth, interlaced=True)
            yield f"PNG {name} {depth} interlaced", data, shown
    values = samples(8, RGB)
    hidden = values[5, 5]
    data = png(values, transparent=hidden.tolist())
    yield "PNG RGB 8, one colour transparent", data, where((values == hidden).all(2), values)
    # Of a sample in `tRNS` only the low bits count (PNG, 11.3.1.1).
    data = png(values, transparent=[0xAB00 + int(value) for value in hidden])
    yield "PNG RGB 8, tRNS with high bits", data, where((values == hidden).all(2), values)
    for depth in (1, 2, 4, 8):
        values = samples(depth if depth < 8 else 6)
        palette = COLOURS[: 1 << min(depth, 6)]
        shown = np.array(palette)[values[:, :, 0]]
        yield f"PNG palette {depth}", png(values, depth, palette=palette), shown
        data = png(values, depth, palette=palette, transparent=b"\x00")
        yield f"PNG palette {depth}, first transparent", data, where(values[:, :, 0] == 0, shown)
        alpha = bytes((n * 37 + 9) % 256 for n in range(len(palette)))
        data = png(values, depth, palette=palette, transparent=alpha)
        entry_alpha = np.frombuffer(alpha, np.uint8).astype(int)[values]
        yield f"PNG palette {depth} with alpha", data, on_white(shown, entry_alpha)


def tiff_cases():
    for order in "<>":
        yield from grey_tiffs(order)
        yield from palette_tiffs(order)
        for bits in (8, 16):
            for planar in (False, True):
                for compression in COMPRESSIONS:
                    layout = {"order": order, "compression": compression, "planar": planar}
                    name = f"TIFF {order} {{}} {bits}, compression {compression}"
                    name += ", planes" if planar else ""
                    yield from colour_tiffs(bits, layout, name)
    values = samples(8, RGB)
    for name, layout in {
        "strips of 5 rows": {"rows_per_strip": 5},
        "tiles": {"tile": 16},
        "tiles of planes": {"tile": 16, "planar": True},
        "BigTIFF": {"is_big": True},
        "BigTIFF big-endian": {"is_big": True, "order": ">"},
        "undefined sample format": {"tags": {339: (3, [4, 4, 4])}},
    }.items():
        yield f"TIFF RGB, {name}", tiff(values, 8, 2, **layout), values
    deep = samples(16)
    for name, layout in {"strips": {"rows_per_strip": 5}, "tiles": {"tile": 16}}.items():
        data = tiff(deep, 16, 0, order=">", **layout)
        yield f"TIFF > grey 16, white is zero, {name}", data, 255 - grey(deep >> 8)
    values = samples(8, RGB)
    for orientation, turn in TURNS.items():
        for compression in (1, 5):
            tags = {274: (3, [orientation])}
            data = tiff(values, 8, 2, compression=compression, tags=tags)
            yield f"TIFF orientation {orientation}, compression {compression}", data, turn(values)
    values = samples(8, GREY_ALPHA)
    data = tiff(values, extra=[2])
    yield "TIFF grey with alpha", data, on_white(grey(values), values[:, :, 1:])
    yield "TIFF grey and one more, planes", tiff(values, extra=[0], planar=True), grey(values)
    for count in (2, 3):
        values = samples(8, RGB + count)
        data = tiff(values, 8, 2, extra=[0] * count)
        yield f"TIFF RGB and {count} more", data, values[:, :, :3]
        data = tiff(values, 8, 2, extra=[2, *[0] * (count - 1)])
        yield f"TIFF RGBA and {count - 1} more", data, on_white(values[:, :, :3], values[:, :, 3:4])
    # L* from 0 to 255; a* and b* are signed.
    lab = np.array([[[137, 0, 0], [255, 0, 0], [140, 256 - 30, 20], [128, 40, 256 - 20]]])
    shown = np.array([[from_lab(137, 0, 0), from_lab(255, 0, 0), from_lab(140, -30, 20),
                       from_lab(128, 40, -20)]])  # fmt: skip
    yield "TIFF CIELab", tiff(lab, 8, 8), shown


def grey_tiffs(order):
    for bits in (1, 2, 4, 8, 12, 16):
        values = samples(bits)
        shown = grey(to_8_bits(values, bits))
        for photometric, pixels in ((1, shown), (0, 255 - shown)):
            for compression in COMPRESSIONS:
                data = tiff(values, bits, photometric, order=order, compression=compression)
                name = f"TIFF {order} grey {bits}, photometric {photometric}"
                yield f"{name}, compression {compression}", data, pixels
        if bits <= 8:
            data = tiff(values, bits, order=order, reversed_bits=True)
            yield f"TIFF {order} grey {bits}, reversed bits", data, shown


def palette_tiffs(order):
    for bits in (1, 2, 4, 8):
        used = min(bits, 6)
        indices, palette = samples(used), np.array(COLOURS[: 1 << used]) * 257
        table = np.zeros((1 << bits, 3), int)
        table[: len(palette)] = palette
        tags = {320: (3, table.T.ravel().tolist())}
        data = tiff(indices, bits, 3, order=order, tags=tags)
        yield f"TIFF {order} palette {bits}", data, (palette >> 8)[indices[:, :, 0]]
        if bits == 8:
            alpha = samples(8, seed=3)
            both, colours = np.dstack((indices, alpha)), (palette >> 8)[indices[:, :, 0]]
            data = tiff(both, bits, 3, order=order, tags=tags, extra=[2])
            yield f"TIFF {order} palette with alpha", data, on_white(colours, alpha)
            data = tiff(both, bits, 3, order=order, tags=tags, extra=[0])
            yield f"TIFF {order} palette and one more", data, colours


def colour_tiffs(bits, layout, name):
    values = samples(bits, RGB)
    yield name.format("RGB"), tiff(values, bits, 2, **layout), to_8_bits(values, bits)
    values = samples(bits, RGBA)
    eight = to_8_bits(values, bits)
    blended = on_white(eight[:, :, :3], eight[:, :, 3:])
    yield name.format("RGBA"), tiff(values, bits, 2, extra=[2], **layout), blended
    data = tiff(values, bits, 2, extra=[0], **layout)
    yield name.format("RGB and one more"), data, eight[:, :, :3]
    values = values * values[:, :, 3:] // ((1 << bits) - 1)
    values[:, :, 3] = samples(bits, RGBA)[:, :, 3]
    eight = to_8_bits(values, bits)
    on = eight[:, :, :3] + 255 - eight[:, :, 3:]
    data = tiff(values, bits, 2, extra=[1], **layout)
    yield name.format("RGBA, premultiplied"), data, on.clip(0, 255)
    values = samples(bits, CMYK)
    eight = to_8_bits(values, bits)
    shown = (255 - eight[:, :, :3]) * (255 - eight[:, :, 3:]) / 255
    yield name.format("CMYK"), tiff(values, bits, 5, **layout), np.rint(shown).astype(int)


def bmp_cases():
    for bits in (1, 4, 8):
        values = samples(min(bits, 6))
        palette = COLOURS[: 1 << min(bits, 6)]
        shown = np.array(palette)[values[:, :, 0]]
        yield f"BMP palette {bits}", bmp(values, bits, palette=palette), shown
        yield f"BMP palette {bits}, OS/2", bmp(
            values, bits, palette=[*palette, *[(0, 0, 0)] * ((1 << bits) - len(palette))],
            core_header=True,
        ), shown  # fmt: skip
        few = samples(1)
        data = bmp(few, bits, palette=[(0, 0, 0), (255, 255, 255)])
        yield f"BMP {bits} bits, black and white", data, grey(few * 255)
        greys = [(n, n, n) for n in range(1 << bits)]
        values = samples(bits)
        yield f"BMP {bits} bits, dark greys", bmp(values, bits, palette=greys), grey(values)
    values = samples(8, RGB)
    yield "BMP 24", bmp(values[:, :, ::-1]), values
    yield "BMP 24, top down", bmp(values[:, :, ::-1], top_down=True), values
    packed = (values[:, :, :1] << 16) | (values[:, :, 1:2] << 8) | values[:, :, 2:]
    yield "BMP 32", bmp(packed, 32), values
    five = samples(5, RGB)
    packed = (five[:, :, :1] << 10) | (five[:, :, 1:2] << 5) | five[:, :, 2:]
    yield "BMP 16, 5 bits a channel", bmp(packed, 16), five * 255 // 31
    green = samples(6)
    packed = (five[:, :, :1] << 11) | (green << 5) | five[:, :, 2:]
    shown = np.dstack((five[:, :, :1] * 255 // 31, green * 255 // 63, five[:, :, 2:] * 255 // 31))
    yield "BMP 16, masks", bmp(packed, 16, masks=(0xF800, 0x7E0, 0x1F)), shown
    alpha = samples(8, seed=1)
    packed = (alpha << 24) | (values[:, :, :1] << 16) | (values[:, :, 1:2] << 8) | values[:, :, 2:]
    data = bmp(packed, 32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    yield "BMP 32 with alpha", data, on_white(values, alpha)
    indices = np.array([[[3]] * 4 + [[9]] * 2, [[1], [2], [3], [4], [5], [6]]])
    runs = b"\0\6\1\2\3\4\5\6\0\0" + b"\4\3\2\x09\0\0" + b"\0\1"
    data = bmp(indices, 8, palette=COLOURS, compression=1, pixels=runs)
    yield "BMP runs of 8 bits", data, np.array(COLOURS)[indices[:, :, 0]]
    # Rows from below: five and one as they are; a move of 2; three by turns, then one.
    indices = np.array([[1, 2, 1, 9, 0, 0], [0, 0, 4, 4, 4, 4], [1, 2, 3, 4, 5, 6]])[:, :, None]
    runs = b"\0\5\x12\x34\x50\0\1\x60\0\0" + b"\0\2\2\0\4\x44\0\0" + b"\3\x12\1\x90\0\1"
    data = bmp(indices, 4, palette=COLOURS[:16], compression=2, pixels=runs)
    yield "BMP runs of 4 bits", data, np.array(COLOURS)[indices[:, :, 0]]


def gif_cases():
    indices = samples(7)[:, :, 0]
    shown = np.array(COLOURS)[indices]
    yield "GIF", gif(indices, COLOURS), shown
    yield "GIF interlaced", gif(indices, COLOURS, interlaced=True), shown
    yield "GIF local palette", gif(indices, COLOURS, local_palette=True), shown
    data = gif(indices, COLOURS, transparent=int(indices[3, 3]))
    yield "GIF, one colour transparent", data, where(indices == indices[3, 3], shown)
    comment = b"\x21\xfe\x05hello\0"
    yield "GIF with a comment", gif(indices, COLOURS, before=comment), shown


def webp_cases():
    colours = [(200, 10, 30, 255), (200, 90, 40, 128)]
    shown = np.array(colours)[np.arange(WIDTH) % 2][None].repeat(HEIGHT, 0)
    opaque = [(*colour[:3], 255) for colour in colours]
    yield "WebP", webp(WIDTH, HEIGHT, opaque, has_alpha=False), shown[:, :, :3]
    yield (
        "WebP with alpha",
        webp(WIDTH, HEIGHT, colours),
        on_white(shown[:, :, :3], shown[:, :, 3:]),
    )


def jpeg_cases():
    blocks = np.array([[[0], [255], [77]], [[128], [20], [201]]])
    yield "JPEG grey", jpeg(blocks), grey(blocks).repeat(8, 0).repeat(8, 1)
    colour = np.array([[[76, 85, 255], [150, 44, 21]], [[29, 255, 107], [128, 128, 128]]])
    y, cb, cr = (colour[:, :, c].astype(float) - (128 if c else 0) for c in range(3))
    rgb = np.dstack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb))
    yield "JPEG colour", jpeg(colour), np.rint(rgb).clip(0, 255).repeat(8, 0).repeat(8, 1)
    # Adobe's programs store CMYK inverted: 255 is no ink.
    inks = np.array([[[255, 255, 255, 255], [0, 255, 255, 255], [255, 255, 255, 128]]])
    shown = (inks[:, :, :3] * inks[:, :, 3:] / 255).astype(int)
    yield "JPEG CMYK", jpeg(inks, adobe=True), shown.repeat(8, 0).repeat(8, 1)


def refused_cases():
    """Files whose colours cannot be decoded: name, file, what the error says."""
    grey_16, rgb_16 = samples(16), samples(16, RGB)
    yield "PNG RGB 16, tRNS", png(rgb_16, 16, transparent=[1, 2, 3]), "16 bits a channel and a tra"
    for bits, kind, what in ((8, 2, "signed"), (16, 2, "signed"), (32, 3, "signed or floating")):
        data = tiff(samples(8), bits, tags={339: (3, [kind])})
        yield f"TIFF grey {bits}, sample format {kind}", data, what
    yield "TIFF grey 32", tiff(samples(8), 32), "1 x 32 bits, grey cannot"
    yield "TIFF grey 10", tiff(samples(10), 10), "1 x 10 bits, grey"
    yield "TIFF RGB 12", tiff(samples(12, RGB), 12, 2), "3 x 12 bits, RGB"
    yield "TIFF CIELab planes", tiff(samples(8, RGB), 8, 8, planar=True), "CIELab, in planes"
    yield "TIFF grey premultiplied", tiff(samples(8, 2), extra=[1]), r"extra samples \(1,\)"
    yield "TIFF reversed 16", tiff(grey_16, 16, reversed_bits=True), "reversed bits"
    yield "TIFF JPEG 2000", tiff(grey_16, 16, tags={259: (3, [34712])}), "compression 34712"
    yield "TIFF raw file", tiff(samples(8), tags={50706: (1, [1, 4, 0, 0])}), "raw file of a camera"
    data = tiff(samples(8, RGB), 8, 2, tags={258: (3, [5, 6, 5])})
    yield "TIFF 5, 6 and 5 bits", data, r"\(5, 6, 5\) bits"
    twelve = jpeg(np.full((1, 1, 1), 9)).replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c")
    yield "JPEG 12", twelve, "12 bits a sample"
    two = jpeg(np.full((1, 1, 2), 9))
    yield "JPEG of two components", two, "2 components"
    data = jpeg(np.full((1, 1, 1), 9)).replace(b"\xff\xc0", b"\xff\xc5")
    yield "JPEG hierarchical", data, "hierarchical"


DECODED = [
    *png_cases(), *tiff_cases(), *bmp_cases(), *gif_cases(), *webp_cases(), *jpeg_cases()
]  # fmt: skip
REFUSED = [*refused_cases()]
