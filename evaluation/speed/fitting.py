"""Fits a training of stage 2 to a machine, in a minute or two: which settings give right gradients there, which batch
and patch fill it, how many loader workers feed it.

What fails is left out, with a line that says why; it stops no training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import is_about_memory
from common.machine import memory_limit, shared_memory, usable_cores
from engine.loader import PREFETCHED_BATCHES
from evaluation.speed.trials import Reading, Settings, Trial, made_up_patches
from restoration.config import RestorerConfig
from restoration.networks.restorer import Restorer

CHECKED_IMAGES, CHECKED_PX = 2, 128  # what gradients are compared on
# Largest distance between gradients (`distance`). On a CPU, where both are right: of `paper` 0.0016 in float32 between
# two layouts and 0.17 in bfloat16, of `fast` 0.0008 and 0.075. A tensor whose gradient is lost has 1.
TOLERANCES = {"float32": 0.02, "bfloat16": 0.4}
LEAST_SHARE = 1e-5  # of all gradients' norm; a tensor whose gradient is smaller is compared with so much
MEMORY_SHARE = 0.85  # of the device; validation and what an allocator keeps unused take the rest
MIN_GROWTH = 1.05  # of the speed when the batch is doubled; below that the device is full
NEAR_BEST = 0.9  # of the best speed; the smallest batch that reaches it makes the most steps
MIN_PATCH_PX = 32
SPARE = 1.5  # the loader should be able to make this many times what the device takes
LOADER_SECONDS, LOADER_IMAGES = 1.0, 30
SHARED_SHARE = 0.5  # of the shared memory; pinned copies and other programs take some, too
NUM_VALIDATIONS = 10
ENDLESS = 10**6  # epochs

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fit:
    """What fits a configuration to a machine.

    Args:
        settings: those that passed.
        batch_size: samples of a step.
        patch_size_px: side of a patch.
        num_workers: loader processes.
        steps_per_second: of the device, or of the loader if that is slower.
    """

    settings: Settings
    batch_size: int
    patch_size_px: int
    num_workers: int
    steps_per_second: float

    def overlay(self, minutes: float) -> dict:
        """The keys to lay over the configuration, for a training that these minutes alone end."""
        every = {"validate_every_steps": steps_between_validations(60 * minutes * self.steps_per_second)}
        length = {"epochs": ENDLESS, "max_steps": None, "micro_batches": 1}  # whole batches were tried
        sizes = {"batch_size": self.batch_size, "patch_size_px": self.patch_size_px, "num_workers": self.num_workers}
        return {"data": sizes, "trainer": asdict(self.settings) | every | length}


def steps_between_validations(num_steps: float) -> int:
    """Steps from one validation to the next in a training of `num_steps`."""
    return max(round(num_steps / NUM_VALIDATIONS), 1)


class Fitting:
    """The search for a `Fit`.

    Args:
        network: of the configuration, on the CPU; it stays as it is.
        config: the batch is not smaller than its own, and the patch equal to its own, if that fits into memory.
        device: where the training runs.
        say: prints a line.
    """

    def __init__(self, network: Restorer, config: RestorerConfig, device: torch.device, say: Say) -> None:
        self.network, self.config, self.device, self.say = network, config, device, say

    def run(self, dataset: Dataset) -> Fit:
        """Find it. `dataset` makes the samples.

        Raises:
            ValueError: if even the smallest step does not fit into memory.
        """
        wanted = Settings.wanted(self.config, self.device)
        few = self._patches(CHECKED_IMAGES, min(self.config.data.patch_size_px, CHECKED_PX))
        settings = checked(
            Settings(), replace(wanted, compile=False), lambda tried: self._gradients(tried, few), self.say
        )
        size_px, readings = self._readings(settings, len(dataset))
        batch_size = chosen_batch(readings)
        seconds = readings[batch_size].seconds
        if wanted.compile:
            settings, seconds = self._compiled(settings, batch_size, size_px, seconds)
        speed = batch_size / seconds
        self.say(f"chosen: batch {batch_size} of {size_px} pixels, {settings}: {speed:.1f} images/s")
        most = self._most_workers(batch_size, size_px)
        of_one = samples_per_second(dataset)
        num_workers = chosen_workers(speed, of_one, most, self.say)
        fed = min(speed, max(num_workers, 1) * of_one)  # images/s
        return Fit(settings, batch_size, size_px, num_workers, fed / batch_size)

    def _readings(self, settings: Settings, num_images: int) -> tuple[int, dict[int, Reading]]:
        """The side of a patch, and what was read at each batch size. The side is halved while nothing fits."""
        size_px = self.config.data.patch_size_px
        limit = self._memory_limit()
        start = min(self.config.data.batch_size, num_images)
        while size_px >= MIN_PATCH_PX:
            self.say(f"patches of {size_px} pixels, {settings}:")
            readings = read_batches(
                lambda batch_size, side=size_px: self._read(settings, batch_size, side),
                start=start, largest=num_images, limit_bytes=limit, say=self.say,
            )  # fmt: skip
            if readings:
                return size_px, readings
            size_px //= 2
        raise ValueError(f"no step fits into the memory of {self.device}, however small: choose a smaller network")

    def _compiled(self, settings: Settings, batch_size: int, size_px: int, seconds: float) -> tuple[Settings, float]:
        """The compiled settings and a step's seconds, if right and faster; else the old ones."""
        whole = self._patches(batch_size, size_px)
        faster = replace(settings, compile=True)
        trial = Trial(self.network, self.config, faster, self.device)  # compiled once, for both

        def gradients(tried: Settings) -> list[Tensor]:
            return trial.gradients(*whole) if tried == faster else self._gradients(tried, whole)

        if checked(settings, faster, gradients, self.say) != faster:
            return settings, seconds
        reading = within_memory(lambda: trial.read(*whole))
        if reading is None or reading.seconds >= seconds:
            self.say("compiled: not faster, left out")
            return settings, seconds
        self.say(
            f"compiled: {batch_size / reading.seconds:.1f} images/s, {seconds / reading.seconds:.2f} times as fast"
        )
        return faster, reading.seconds

    def _most_workers(self, batch_size: int, size_px: int) -> int:
        """One for each core but the training's own; fewer if shared memory has no room for the batches they hold."""
        cores = max(usable_cores() - 1, 1)
        batch_bytes = 2 * batch_size * self.config.data.channels * size_px**2  # degraded and clean, uint8
        room = int(min(SHARED_SHARE * shared_memory() / (PREFETCHED_BATCHES * batch_bytes), cores))
        if room < cores:
            self.say(
                f"loader: shared memory has room for the batches of {room} worker(s); in a container, "
                "`docker run --ipc=host` gives more"
            )
        return room

    def _gradients(self, settings: Settings, patches: tuple[Tensor, Tensor]) -> list[Tensor]:
        return Trial(self.network, self.config, settings, self.device).gradients(*patches)

    def _read(self, settings: Settings, batch_size: int, size_px: int) -> Reading | None:
        patches = self._patches(batch_size, size_px)
        reading = within_memory(lambda: Trial(self.network, self.config, settings, self.device).read(*patches))
        # On a CPU it is the most that the process has ever had, and says nothing about a smaller batch.
        is_peak_of_step = self.device.type == "cuda"
        return None if reading and is_peak_of_step and reading.peak_bytes > self._memory_limit() else reading

    def _memory_limit(self) -> float:
        """The bytes that a step may take."""
        return MEMORY_SHARE * memory_limit(self.device)

    def _patches(self, num: int, size_px: int) -> tuple[Tensor, Tensor]:
        return made_up_patches(num, self.config.data.channels, size_px)


def within_memory(read: Callable[[], Reading]) -> Reading | None:
    """The reading; None if it does not fit into memory. Gives the device's unused memory back."""
    try:
        return read()
    except RuntimeError as error:
        if not is_about_memory(error):
            raise
        return None
    finally:
        torch.cuda.empty_cache()  # does nothing without a GPU


def checked(start: Settings, wanted: Settings, gradients: Callable[[Settings], list[Tensor]], say: Say) -> Settings:
    """The wanted settings as far as their gradients are right, one after the other, beginning with `start`.

    Args:
        start: gives the gradients that the others are compared with.
        wanted: differs from `start` in what is to be checked.
        gradients: of one step under some settings; a RuntimeError means that it failed.
        say: prints a line for each setting.
    """
    reference, chosen = gradients(start), start
    for key, value in asdict(wanted).items():
        tried = replace(chosen, **{key: value})
        if tried == chosen:
            continue
        allowed = TOLERANCES[tried.precision]
        try:
            found = distance(gradients(tried), reference)
        except RuntimeError as error:
            say(f"check FAILED, left out: {tried}: {' '.join(str(error).split())[:200]}")
            continue
        passed = found <= allowed  # False for nan
        say(
            f"check {'passed' if passed else 'FAILED, left out'}: {tried}: gradients are at most {found:.2%} "
            f"from those of {start} ({allowed:.0%} allowed)"
        )
        chosen = tried if passed else chosen
    return chosen


def distance(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest distance of a tensor's gradients: the norm of their difference, as a share of the reference's norm.

    Each tensor counts for itself, because Adam and Muon make updates of one size from gradients of any size.

    Raises:
        RuntimeError: if there are not as many gradients: a tensor has lost its own.
    """
    if len(gradients) != len(reference):
        raise RuntimeError(f"{len(gradients)} tensors have gradients, not {len(reference)}")
    norms = torch.stack([one.norm() for one in reference])
    differences = torch.stack([(one - other).norm() for one, other in zip(gradients, reference, strict=True)])
    return (differences / norms.clamp(min=LEAST_SHARE * norms.norm().item())).max().item()


def read_batches(
    read: Callable[[int], Reading | None], *, start: int, largest: int, limit_bytes: float, say: Say
) -> dict[int, Reading]:
    """Readings by batch size: from `start` on, doubled until speed or memory stops it; smaller if `start` does not fit.

    Args:
        read: times a step at a batch size; None if it does not fit into memory.
        start: the first size.
        largest: the last size that may be tried.
        limit_bytes: memory to stay within. What the next size takes is foreseen from the last two.
        say: prints a line for each size.

    Raises:
        RuntimeError: from `read`, if no size has worked yet. Later it ends the search.
    """
    readings: dict[int, Reading] = {}
    size = start
    while size >= 1:
        try:
            reading = read(size)
        except RuntimeError as error:  # a library's, on a card that is nearly full or with maps that are too large
            if not readings:
                raise
            say(f"  batch {size}: failed: {' '.join(str(error).split())[:200]}")
            break
        if reading is None:
            say(f"  batch {size}: does not fit into memory")
            if readings:
                break
            size //= 2
            continue
        say(f"  batch {size}: {size / reading.seconds:.1f} images/s, {reading.peak_bytes / 2**30:.1f} GiB")
        before, readings[size] = readings.get(size // 2), reading
        if size < start or 2 * size > largest:
            break
        if before and before.seconds * 2 < MIN_GROWTH * reading.seconds:
            break
        growth = reading.peak_bytes - before.peak_bytes if before else reading.peak_bytes / 2
        if reading.peak_bytes + 2 * growth > limit_bytes:
            say(f"  batch {2 * size}: would need more than {limit_bytes / 2**30:.1f} GiB")
            break
        size *= 2
    return readings


def chosen_batch(readings: Mapping[int, Reading]) -> int:
    """The smallest batch whose speed is near the best."""
    speeds = {size: size / reading.seconds for size, reading in readings.items()}
    return min(size for size, speed in speeds.items() if speed >= NEAR_BEST * max(speeds.values()))


def samples_per_second(dataset: Dataset) -> float:
    """How many samples one process makes, measured for about a second.

    An image is read from the disk, and its checksum compared, when it is used first; so all are used once before.
    """
    num_images = min(len(dataset), LOADER_IMAGES)
    for index in range(num_images):
        dataset[(0, index)]
    started, count = perf_counter(), 0
    while (seconds := perf_counter() - started) < LOADER_SECONDS or not count:
        dataset[(0, count % num_images)]
        count += 1
    return count / seconds


def chosen_workers(needed: float, of_one: float, most: int, say: Say) -> int:
    """Loader workers that make `needed` samples a second with something to spare.

    Args:
        needed: samples that the device takes in a second.
        of_one: samples that one worker makes in a second.
        most: the cores besides the training's own, or fewer. If it is 0, the training makes its samples itself.
        say: prints a line.
    """
    num_workers = min(math.ceil(SPARE * needed / of_one), most)
    if not num_workers:
        say(
            f"loader: no worker, the training makes its samples itself, {of_one:.0f} in a second: it will wait for them"
        )
        return 0
    enough = "" if num_workers * of_one >= needed else "; TOO SLOW: the device will wait for data"
    say(f"loader: {of_one:.0f} samples/s each, {num_workers} worker(s): {num_workers * of_one:.0f} samples/s{enough}")
    return num_workers
