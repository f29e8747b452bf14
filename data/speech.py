"""Speech Commands: classify a second of audio by the word, as raw waveform or as MFCC.

Warden 2018, arXiv:1804.03209, version 0.02. SC10 (ten words) and its MFCC follow the S4 paper's table 5: 16,000
samples, shorter clips padded with zeros; 161 frames of 20 coefficients; inputs standardised by the training part.
Files are taken in the order of their names, never of a folder. SC35 has the splits of the lists in the archive. For
SC10 no list was published: here 70, 15 and 15 % of each word's files by a permutation with a fixed seed.
"""

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.datamodule import TOY_COUNTS, TaskData, check_choice, consecutive
from data.loader import Examples
from data.prepared import DataError, save_arrays
from data.source import Source, find_folder
from lra.console import progress_bar
from lra.task import TaskSpec

WORDS10 = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
MORE = (
    *("backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy", "house", "learn"),
    *("marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two", "visual", "wow", "zero"),
)
WORDS = {10: WORDS10, 35: tuple(sorted((*WORDS10, *MORE)))}
RATE = SAMPLES = 16_000
FRAMES, COEFFICIENTS = 161, 20
SHARES = (0.70, 0.15)  # train, val
PITCHES = 37
VERSION = "speech_commands_v0.02"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


class Speech(TaskData):
    """One second of audio at 16 kHz.

    words     10 or 35
    features  "raw": 16,000 samples; "mfcc": 161 positions of 20 coefficients (FFT of 200, 64 mel bands, hop 100)
    """

    archive_folder = VERSION

    def __init__(self, *, words: int = 10, features: str = "raw", **common: Any):
        super().__init__(**{"name": f"sc{words}-{features}", **common})
        self.words = WORDS[check_choice("words", words, tuple(WORDS))]
        self.listed = words == 35
        self.features = check_choice("features", features, ("raw", "mfcc"))
        length, channels = (SAMPLES, 1) if features == "raw" else (FRAMES, COEFFICIENTS)
        self.spec = TaskSpec(self.name, length, len(self.words), None, channels=channels)

    name = "speech"

    def parameters(self, edition: str) -> dict[str, Any]:
        made = self.toy_parameters() if edition == "toy" else {}
        return {"words": len(self.words), "features": self.features} | made

    def find(self, folder: Path) -> Source | None:
        return self.find_files(folder)

    def find_files(self, folder: Path) -> Source | None:
        places = (VERSION, f"SpeechCommands/{VERSION}", "speech_commands")
        place = find_folder(folder, places, LISTS["test"])
        if place is None:
            return None
        files = (place / LISTS["val"], place / LISTS["test"])
        return Source("official", "official", VERSION, lambda work: self._write(work, place), files=files)

    def downloaded(self) -> Source:
        def write(work: Path) -> dict[str, Any]:
            import torchaudio

            root = self.root / "raw"
            root.mkdir(parents=True, exist_ok=True)
            try:
                torchaudio.datasets.SPEECHCOMMANDS(str(root), url=VERSION, download=True)
            except (OSError, RuntimeError) as error:
                hint = f"give a folder with {VERSION} as data.source or $LRA_MIRROR"
                raise DataError(f"{VERSION} (2.3 GB) cannot be downloaded ({error})", hint=hint) from None
            if (found := self.find_files(root)) is None:
                raise DataError(f"{root}: the archive does not have {LISTS['test']}", hint="delete it")
            return found.write(work)

        return Source("official", "official", VERSION, write)

    def _write(self, work: Path, place: Path) -> dict[str, Any]:
        splits = self._files(place)
        paths = [path for split in splits.values() for path in split]
        x = np.lib.format.open_memmap(work / "x.npy", "w+", np.int16, (len(paths), SAMPLES))
        with progress_bar("reading audio", len(paths)) as advance:
            for i, path in enumerate(paths):
                clip = read_wav(path)
                x[i, : len(clip)] = clip
                advance(1)
        y = np.array([self.words.index(path.parent.name) for path in paths], np.uint8)
        return self._save(work, np.asarray(x), y, [len(split) for split in splits.values()])

    def _files(self, place: Path) -> dict[str, list[Path]]:
        """The files of train, val and test, in the order of their names."""
        names = {word: sorted(path.name for path in (place / word).glob("*.wav")) for word in self.words}
        if missing := [word for word, files in names.items() if not files]:
            raise DataError(f"{place}: no .wav file for {', '.join(missing)}", hint="unpack the archive again")
        splits: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
        if not self.listed:
            for word, files in names.items():
                order = np.random.default_rng(42).permutation(len(files))
                ends = np.cumsum([round(share * len(files)) for share in SHARES])
                for split, rows in zip(splits, np.split(order, ends), strict=True):
                    splits[split] += [place / word / files[row] for row in sorted(rows)]
            return splits
        listed = {split: set((place / name).read_text().split()) for split, name in LISTS.items()}
        for word, files in names.items():
            for name in files:
                split = next((split for split, known in listed.items() if f"{word}/{name}" in known), "train")
                splits[split].append(place / word / name)
        return splits

    def _save(self, work: Path, clips: np.ndarray, labels: np.ndarray, counts: list[int]) -> dict[str, Any]:
        if self.features == "mfcc":
            save_arrays(work, x=np.concatenate(list(mfcc(clips))), y=labels)
        elif not (work / "x.npy").exists():
            save_arrays(work, x=clips, y=labels)
        else:
            save_arrays(work, y=labels)
        return {"parts": consecutive(counts)}

    def toy(self) -> Source:
        """Two tones that glide, at start and end pitches of the word, with overtones, noise and silence around them."""

        def write(work: Path) -> dict[str, Any]:
            counts = list(self.made_counts(TOY_COUNTS).values())
            rng = np.random.default_rng(self.data_seed)
            labels = rng.integers(0, len(self.words), sum(counts)).astype(np.uint8)
            return self._save(work, np.stack([spoken(int(label), rng) for label in labels]), labels, counts)

        return Source("toy", "toy", "gliding tones, a pair of pitches for each word", write)

    def make_examples(self, arrays: dict[str, np.ndarray]) -> Examples:
        begin, end = self._train_rows
        train = arrays["x"][begin:end]
        if self.features == "mfcc":
            flat = train.reshape(-1, train.shape[-1])
            standardised = (arrays["x"] - flat.mean(0)) / flat.std(0)
            return Examples.of_arrays({**arrays, "x": standardised.astype(np.float32)}, self.spec.max_len)
        sums = [(clip.sum(), np.square(clip).sum()) for clip in (row.astype(np.float64) for row in train)]
        mean, square = np.sum(sums, 0) / train.size
        deviation = float(np.sqrt(square - mean**2))
        return Examples.of_arrays(arrays, self.spec.max_len, affine=(1 / deviation, -float(mean) / deviation))

    @property
    def _train_rows(self) -> tuple[int, int]:
        from data.prepared import read_manifest

        begin, end = read_manifest(self.prepared_folder)["parts"]["train"]
        return begin, end

    def text(self, row: int) -> str:
        """The word, and the loudness over time as bars."""
        x = self.opened.arrays["x"][row]
        loud = np.abs(x.astype(np.float64)).reshape(len(x), -1).mean(1)
        parts = np.array([part.mean() for part in np.array_split(loud, 80)])
        bars = (parts / max(parts.max(), 1e-9) * 7).round().astype(int)
        return f"{self.words[int(self.opened.arrays['y'][row])]}: {''.join('▁▂▃▄▅▆▇█'[b] for b in bars)}"


def read_wav(path: Path) -> np.ndarray:
    """int16 samples of a wav file; DataError for another rate, several channels, other than 16 bits, or a cut file."""
    hint = "get the file again"
    try:
        with wave.open(str(path), "rb") as file:
            form = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
            n, content = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable wav file ({error})", hint=hint) from None
    if form != (RATE, 1, 16):
        found = f"{form[0]} Hz, {form[1]} channel{'s' * (form[1] != 1)}, {form[2]} bits"
        raise DataError(f"{path}: {found}; expected {RATE} Hz, 1 channel, 16 bits", hint=hint)
    if len(content) != 2 * n or not 0 < n <= SAMPLES:
        raise DataError(f"{path}: {len(content) // 2} samples of {n}, at most {SAMPLES} are expected", hint=hint)
    return np.frombuffer(content, "<i2")


def mfcc(clips: np.ndarray) -> Iterator[np.ndarray]:
    """(n, 161, 20) float32 in blocks: torchaudio's MFCC of log mel energies, as in the S4 repository."""
    import torchaudio

    sizes = {"n_fft": 200, "n_mels": 64, "hop_length": 100}
    transform = torchaudio.transforms.MFCC(RATE, n_mfcc=COEFFICIENTS, log_mels=True, melkwargs=sizes)
    for begin in range(0, len(clips), 1000):
        waves = torch.from_numpy(clips[begin : begin + 1000].astype(np.float32) / 2**15)
        yield transform(waves).transpose(1, 2).numpy()


def spoken(word: int, rng: np.random.Generator) -> np.ndarray:
    """A made-up word, int16 (16000,): a tone with two overtones glides between two pitches of 200 to 1,400 Hz."""
    n = int(rng.integers(6_000, 12_000))
    first, last = (200 + 1200 * (k * (word + 1) % PITCHES) / PITCHES for k in (3, 7))
    scale = rng.uniform(0.98, 1.02)
    phase = 2 * np.pi * np.cumsum(scale * np.linspace(first, last, n)) / RATE
    tone = sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in (1, 2, 3))
    envelope = np.sin(np.pi * np.arange(n) / n)
    clip = np.zeros(SAMPLES)
    start = int(rng.integers(0, SAMPLES - n))
    clip[start : start + n] = tone * envelope
    clip = 4000 * rng.uniform(0.5, 1.5) * clip + 60 * rng.standard_normal(SAMPLES)
    return clip.clip(-32768, 32767).astype(np.int16)
