"""ARCNN and DnCNN from files in their authors' formats, against filters applied one by one, as MATLAB does it."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.ndimage import correlate

from restoration.fineness import LEAST_CHANGE
from restoration.tiling import restore_image
from restoration.weights import open_weights, store_half
from tests.synthetic import noise

ARCNN_LAYERS = {"conv1": (1, 9, 64), "conv2": (64, 7, 32), "conv22": (32, 1, 16), "conv3": (16, 5, 1)}  # in, side, out
USER_BLOCK = b"MATLAB 7.3 MAT-file".ljust(512)  # MATLAB writes its own header before the HDF5 file


def arcnn_variables(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names and in the shapes of the authors' files."""
    rng, variables = np.random.default_rng(seed), {}
    for layer, (inputs, side, outputs) in ARCNN_LAYERS.items():
        filters = rng.normal(0, 1 / np.sqrt(inputs * side**2), (inputs, side**2, outputs))
        variables[f"weights_{layer}"] = filters[..., 0] if outputs == 1 else filters
        variables[f"biases_{layer}"] = rng.normal(0, 0.1, (outputs, 1)).astype(np.float32)
    return variables


def arcnn_slowly(variables: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """As the authors' ARCNN.m: reshape fills columns first, the edge is repeated, the last layer has no ReLU."""
    maps = [image]
    for layer, (inputs, side, outputs) in ARCNN_LAYERS.items():
        filters = variables[f"weights_{layer}"].reshape(inputs, side**2, outputs)
        biases = variables[f"biases_{layer}"]
        summed = [
            sum(
                correlate(maps[i], filters[i, :, o].reshape(side, side, order="F"), mode="nearest")
                for i in range(inputs)
            )
            + biases[o]
            for o in range(outputs)
        ]
        maps = summed if layer == "conv3" else [np.maximum(values, 0) for values in summed]
    return maps[0]


def save_dncnn(path: Path, filters: list[np.ndarray], biases: list[np.ndarray], kinds: list[str] | None = None) -> None:
    """Write MatConvNet's `net` as MATLAB 7.3 does: cells are references, axes reversed, a last axis of 1 is lost."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:

        def put(value: object, where: h5py.Group, name: str) -> h5py.Dataset | h5py.Group:
            if isinstance(value, dict):
                made, kind = where.create_group(name), b"struct"
                for key, part in value.items():
                    put(part, made, key)
            elif isinstance(value, list):
                refs = file.require_group("#refs#")
                parts = [put(part, refs, f"v{len(refs)}").ref for part in value]
                made, kind = where.create_dataset(name, data=np.array(parts, h5py.ref_dtype)[:, None]), b"cell"
            elif isinstance(value, str):
                made, kind = where.create_dataset(name, data=np.array([*map(ord, value)], np.uint16)[:, None]), b"char"
            else:
                made, kind = where.create_dataset(name, data=value.T), b"single"
            made.attrs["MATLAB_class"] = np.bytes_(kind)
            return made

        convolutions = [{"type": "conv", "weights": list(pair)} for pair in zip(filters, biases, strict=True)]
        layers = [layer for one in convolutions for layer in (one, {"type": "relu"})][:-1]
        for layer, kind in zip(layers, kinds or [], strict=False):
            layer["type"] = kind
        put({"layers": layers}, file, "net")
        file["net/layers"].attrs["MATLAB_class"] = np.bytes_(b"cell")
    path.write_bytes(USER_BLOCK + buffer.getvalue()[512:])


def dncnn_weights(depth: int = 4, width: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random filters (height, width, in, out) and biases (out, 1) of a luma network; the last filters have no `out`."""
    rng, widths = np.random.default_rng(1), [1, *[width] * (depth - 1), 1]
    filters = [rng.normal(0, 0.3, (3, 3, i, o)).astype(np.float32) for i, o in zip(widths, widths[1:], strict=False)]
    biases = [rng.normal(0, 0.1, (o, 1)).astype(np.float32) for o in widths[1:]]
    return [*filters[:-1], filters[-1][..., 0]], biases


def dncnn_slowly(filters: list[np.ndarray], biases: list[np.ndarray], image: np.ndarray) -> np.ndarray:
    maps = [image]
    for index, (taps, bias) in enumerate(zip(filters, biases, strict=True)):
        taps = taps.reshape(3, 3, len(maps), -1)
        maps = [
            sum(correlate(each, taps[:, :, i, o], mode="constant") for i, each in enumerate(maps)) + bias[o]
            for o in range(taps.shape[3])
        ]
        if index < len(filters) - 1:
            maps = [np.maximum(values, 0) for values in maps]
    return image - maps[0]


def test_arcnn_filters_as_its_authors_code_does(tmp_path: Path) -> None:
    variables, image = arcnn_variables(), noise(11, 14) / 255
    savemat(tmp_path / "q10.mat", variables)
    opened = open_weights(tmp_path / "q10.mat", needs="network")
    assert (opened.kind, opened.name, opened.network.channels) == ("ARCNN (.mat)", "q10", 1)
    with torch.no_grad():
        found = opened.network(torch.from_numpy(image).float()[None, None])[0, 0]
    np.testing.assert_allclose(found, arcnn_slowly(variables, image), rtol=0, atol=1e-5)  # float32 sums


def test_dncnn_filters_as_its_authors_code_does(tmp_path: Path) -> None:
    filters, biases = dncnn_weights()
    image = noise(9, 13) / 255
    save_dncnn(tmp_path / "any_name", filters, biases)
    opened = open_weights(tmp_path / "any_name", needs="network")
    assert (opened.kind, opened.network.channels, opened.encoder) == ("DnCNN (.mat)", 1, None)
    with pytest.raises(ValueError, match="any_name was not written by this project; a restoration network"):
        store_half(tmp_path / "any_name", tmp_path / "half.safetensors")
    with torch.no_grad():
        found = opened.network(torch.from_numpy(image).float()[None, None])[0, 0]
    np.testing.assert_allclose(found, dncnn_slowly(filters, biases, image), rtol=0, atol=1e-5)  # float32 sums


def test_a_published_network_runs_in_float32_and_on_images_that_it_hardly_changes(tmp_path: Path) -> None:
    filters, biases = dncnn_weights()
    biases[-1][:] += 0.5 * LEAST_CHANGE / 255
    save_dncnn(tmp_path / "DnCNN3.mat", [0 * taps for taps in filters], [*[0 * b for b in biases[:-1]], biases[-1]])
    network = open_weights(tmp_path / "DnCNN3.mat").network
    biased = np.full((8, 8), 100, np.uint8)
    change = float(biases[-1][0, 0]) * 255
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.zeros(1, 1, 8, 8)).dtype == torch.float32
        np.testing.assert_array_equal(restore_image(network, biased), np.full((8, 8), round(100 - change), np.uint8))


def test_damaged_and_other_matlab_files_are_one_line(tmp_path: Path) -> None:
    variables, (filters, biases) = arcnn_variables(), dncnn_weights()
    savemat(tmp_path / "lacks.mat", {name: value for name, value in variables.items() if name != "biases_conv2"})
    savemat(tmp_path / "square.mat", variables | {"weights_conv2": np.zeros((64, 48, 32))})
    savemat(tmp_path / "wide.mat", variables | {"weights_conv2": np.zeros((64, 25, 32))})
    savemat(tmp_path / "other.mat", {"weights": np.zeros((3, 3))})
    save_dncnn(tmp_path / "pools.mat", filters, biases, ["conv", "pool"])
    save_dncnn(tmp_path / "numbers.mat", filters, biases)
    with h5py.File(tmp_path / "numbers.mat", "r+") as file:  # cells that hold no layer
        del file["net/layers"]
        file["net/layers"] = np.zeros((3, 3))
    whole = tmp_path / "whole.mat"
    save_dncnn(whole, filters, biases)
    (tmp_path / "cut.mat").write_bytes(whole.read_bytes()[:1500])
    for name, message in {
        "lacks": r"lacks\.mat is not as the authors' MATLAB files are \('biases_conv2'\)",
        "square": r"square\.mat is not as the authors' MATLAB files are",
        "wide": r"wide\.mat: tensor 'conv2\.weight' is \(32, 64, 5, 5\), the network needs \(32, 64, 7, 7\)",
        "other": r"other\.mat .*; known are .*ARCNN \(\.mat\), DnCNN \(\.mat\), RNAN .*, a network that spandrel loads",
        "numbers": r"numbers\.mat is not as the authors' MATLAB files are",
        "pools": r"pools\.mat is not as the authors' MATLAB files are \(its layers are conv, pool, conv, .*\)",
        "cut": r"cut\.mat cannot be read, it is truncated or no weight file; known are",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_weights(tmp_path / f"{name}.mat")
        assert "\n" not in str(caught.value)
