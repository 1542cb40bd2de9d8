import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tove.data import CorruptImage, load_image, shared_view
from tove.data.image_io import image_of, image_suffixes

RED, BLUE = (200, 30, 20), (20, 30, 200)


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def pixel(image: Image.Image, x: float, y: float) -> tuple:
    return image.getpixel((int(x * (image.width - 1)), int(y * (image.height - 1))))


def close(a: tuple, b: tuple, tolerance: int = 12) -> bool:
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "jpg"),
        ("RGB", "png"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tiff"),
        ("YCbCr", "jpg"),
    ],
)
def test_coloured_modes_keep_their_colours(tmp_path, mode, suffix) -> None:
    path = tmp_path / f"image.{suffix}"
    halves().convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    assert close(pixel(image, 0.2, 0.5), RED)
    assert close(pixel(image, 0.8, 0.5), BLUE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_modes_keep_their_brightness(tmp_path, mode) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[:, 30:] = 255 if mode == "1" else 180
    path = tmp_path / ("image.tiff" if mode in ("I", "F") else "image.png")
    if mode in ("I;16", "I"):
        kind = np.uint16 if mode == "I;16" else np.int32
        Image.fromarray(values.astype(kind) * 257).save(path)
    elif mode == "F":
        Image.fromarray(values.astype(np.float32) / 255).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    image = load_image(path)
    assert close(pixel(image, 0.2, 0.5), (0, 0, 0), 1)
    assert close(pixel(image, 0.8, 0.5), (int(values.max()),) * 3, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path, mode) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (10, 0, 20, 20))
    image.convert(mode).save(tmp_path / "image.png")
    loaded = load_image(tmp_path / "image.png")
    assert pixel(loaded, 0, 0.5) == (0, 0, 0)
    assert pixel(loaded, 1, 0.5) == (255, 255, 255)


def test_palette_with_one_transparent_colour_becomes_white(tmp_path) -> None:
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif", transparency=0)
    colours = {pixel(load_image(tmp_path / "a.gif"), x, 0.5) for x in (0.2, 0.8)}
    assert (255, 255, 255) in colours
    assert len(colours) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, orientation) -> None:
    upright = halves()
    upright.paste((30, 200, 30), (0, 0, 30, 10))  # a green corner tells all eight apart
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for method in undo.get(orientation, []):
        stored = stored.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "image.jpg", exif=exif, quality=95, subsampling=0)
    image = load_image(tmp_path / "image.jpg")
    assert image.size == upright.size
    assert close(pixel(image, 0.1, 0.1), (30, 200, 30), 40)
    assert close(pixel(image, 0.1, 0.9), RED, 40)
    assert close(pixel(image, 0.9, 0.5), BLUE, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path) -> None:
    halves().save(tmp_path / "image.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f broken")
    assert close(pixel(load_image(tmp_path / "image.jpg"), 0.2, 0.5), RED)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated.jpg", "truncated.png", "missing"])
def test_what_is_no_image_is_named(tmp_path, damage) -> None:
    path = tmp_path / f"{damage}.jpg"
    if damage == "empty":
        path.touch()
    elif damage == "text":
        path.write_text("not found")
    elif damage != "missing":
        noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
        whole = tmp_path / f"whole.{damage.rpartition('.')[2]}"
        Image.fromarray(noise).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(CorruptImage, match=path.name):
        load_image(path)


def test_a_large_jpeg_is_decoded_small_but_not_too_small(tmp_path) -> None:
    halves(1600, 1200).save(tmp_path / "image.jpg")
    image = load_image(tmp_path / "image.jpg", min_side=64)
    assert 128 <= min(image.size) < 1200
    assert close(pixel(image, 0.2, 0.5), RED)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (1, 300), (300, 1), (64, 64), (1, 1)])
@pytest.mark.parametrize("view", ["crop", "pad"])
def test_any_size_gives_one_square_view(size, view) -> None:
    square = shared_view(halves(*size), 64, view)
    assert square.shape == (3, 64, 64)
    assert square.dtype == torch.uint8
    assert square.is_contiguous()


def test_a_crop_is_the_centre_and_a_pad_keeps_everything() -> None:
    image = Image.new("RGB", (90, 30), RED)
    image.paste(BLUE, (30, 0, 60, 30))
    crop = shared_view(image, 30, "crop")
    assert (crop == torch.tensor(BLUE, dtype=torch.uint8).view(3, 1, 1)).all()
    pad = shared_view(image, 90, "pad")
    assert tuple(pad[:, 45, 5].tolist()) == RED
    assert tuple(pad[:, 45, 45].tolist()) == BLUE
    assert tuple(pad[:, 5, 45].tolist()) == (122, 116, 104)


def test_a_square_image_of_the_right_size_is_untouched() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for view in ("crop", "pad"):
        square = shared_view(Image.fromarray(noise), 64, view)
        assert np.array_equal(square.permute(1, 2, 0).numpy(), noise)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    view = shared_view(Image.fromarray(stripes), 32).float()
    assert view[:, 2:-2, 2:-2].sub(127.5).abs().max() < 6


def test_a_photo_of_200_megapixels_is_read(tmp_path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("L", (15000, 13000), 90).save(path)
    assert load_image(path, 64).size[0] < 3000
    assert Image.MAX_IMAGE_PIXELS is not None


def test_what_would_fill_the_memory_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tove.data.image_io.MAX_PIXELS", 1000)
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 40)).save(path)
    with pytest.raises(CorruptImage, match="40 x 40 pixels are more than 1,000"):
        load_image(path)


@pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
def test_32_bit_greys_are_read_by_the_range_they_use(tmp_path, white) -> None:
    path = tmp_path / "grey.tiff"
    Image.fromarray(np.array([[0, white // 2, white]], dtype=np.int32), mode="I").save(path)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 127, 255]


def test_whatever_a_caller_has_of_an_image_becomes_the_same(tmp_path: Path):
    path = tmp_path / "image.png"
    halves(20, 10).save(path)
    expected = np.asarray(load_image(path))
    pixels_HWC = torch.from_numpy(expected.copy())
    tensor_CHW = pixels_HWC.permute(2, 0, 1)
    for source in (str(path), path, Image.open(path), tensor_CHW, tensor_CHW / 255):
        assert np.array_equal(np.asarray(image_of(source)), expected)
    rotated = halves(20, 10)
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "rotated.jpg", exif=exif)
    assert image_of(Image.open(tmp_path / "rotated.jpg")).size == (10, 20)
    half = (tensor_CHW / 255).bfloat16()
    assert np.abs(np.asarray(image_of(half)).astype(int) - expected).max() <= 1


def test_what_a_caller_has_that_is_no_image_is_named(tmp_path: Path):
    with pytest.raises(CorruptImage, match=r"a tensor \[4, 2, 2\] is no image"):
        image_of(torch.zeros(4, 2, 2))
    with pytest.raises(CorruptImage, match="3 is no image; give a path"):
        image_of(3)
    (tmp_path / "cut.png").write_bytes(b"")
    with pytest.raises(CorruptImage, match=r"cut\.png"):
        image_of(tmp_path / "cut.png")
    halves(200, 100).save(tmp_path / "whole.png")
    cut = (tmp_path / "whole.png").read_bytes()[:120]
    (tmp_path / "half.png").write_bytes(cut)
    with pytest.raises(CorruptImage, match="cannot be read"):
        image_of(Image.open(tmp_path / "half.png"))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floats_are_read_by_the_range_they_use(tmp_path, white) -> None:
    path = tmp_path / "grey.tiff"
    values = np.array([[0, white / 2, white, np.nan]], dtype=np.float32)
    Image.fromarray(values, mode="F").save(path)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("white", [4095, 65535])
def test_files_of_16_bits_that_hold_12_are_read_as_12(tmp_path, white) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, white // 2, white]], dtype=np.uint16)).save(path)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1e6]])
def test_greys_of_no_known_range_are_refused(tmp_path, values) -> None:
    path = tmp_path / "grey.tiff"
    Image.fromarray(np.array([values], dtype=np.float32), mode="F").save(path)
    with pytest.raises(CorruptImage, match="of which none is known as white"):
        load_image(path)


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(CorruptImage, match=r"pipe\.jpg .* no regular file"):
        load_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("name", ["image.eps", "image.jpg"])
def test_postscript_is_not_run_whatever_its_name(tmp_path, name, monkeypatch) -> None:
    halves().save(tmp_path / name, format="EPS")
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: ran.append(a))
    with pytest.raises(CorruptImage, match="cannot identify"):
        load_image(tmp_path / name)
    assert not ran


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "avif", "jp2", "tga", "pgm", "ico", "qoi"])
def test_what_pillow_reads_is_listed_as_an_image_and_read(tmp_path, suffix) -> None:
    if f".{suffix}" not in image_suffixes():
        pytest.skip(f"this Pillow does not read .{suffix}")
    path = tmp_path / f"image.{suffix}"
    halves(64, 64).save(path, **(dict(quality=95) if suffix == "avif" else {}))
    assert load_image(path).size == (64, 64)


def test_what_is_no_image_is_not_listed_as_one() -> None:
    assert not image_suffixes() & {".eps", ".ps", ".wmf", ".h5", ".mpg", ".txt", ".pdf", ".svg"}
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"} <= image_suffixes()
