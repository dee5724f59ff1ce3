"""Results of `evaluate`, read back from their JSON files."""

import json
from pathlib import Path


def read_result(path: str | Path) -> dict:
    """The result in a file that `evaluate --json` wrote, or in one that `docs/results` keeps.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such result.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; name one that `evaluate --json` wrote")
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        has_several = isinstance(result.get("measured"), list) and "table" not in result
        is_complete = not has_several and (
            isinstance(result["method"], str)
            and result["channels"] in ("gray", "color")
            and result["results"]
            and all(_is_complete(scores) for of_set in result["results"].values() for scores in of_set.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        has_several = is_complete = False
    if has_several:
        raise ValueError(f"{path} holds the results of several systems; evaluate them one by one, with a --json each")
    if not is_complete:
        raise ValueError(f"{path} is not a result of `evaluate`; give the JSON file of one")
    return result


def _is_complete(scores: dict) -> bool:
    """Whether the scores of a set at one quality hold what is read from them. An infinite number is null in JSON."""
    numbers = [scores["psnr"], scores["gain"], scores["jpeg"]["psnr"], *scores["jpeg"].values()]
    counts = [num_images(scores), num_worse(scores)]
    return (
        all(number is None or type(number) in (int, float) for number in numbers)
        and all(type(count) is int for count in counts)
        and counts[0] > 0
    )


def num_images(scores: dict) -> int:
    """The number of images of a set, from its scores at one quality."""
    return len(scores["images"]) if "images" in scores else scores["num_images"]


def num_worse(scores: dict) -> int:
    """The number of these images whose PSNR is lower than that of their JPEG."""
    if "images" not in scores:
        return scores["num_worse"]
    return sum(map(_is_worse, scores["images"].values()))


def _is_worse(image: dict) -> bool:
    """Whether an image's PSNR is lower than that of its JPEG. JSON has null for infinities."""
    if image["gain"] is None:
        return image.get("psnr") is not None  # then it was the JPEG's that is infinite
    return image["gain"] < 0
