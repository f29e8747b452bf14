"""Speech: files and splits, waveforms and MFCC, mistakes in wav files, the made-up words."""

import wave

import numpy as np
import pytest
import torch

from data import speech
from data.prepared import DataError
from data.speech import LISTS, RATE, SAMPLES, Speech, read_wav, spoken
from helpers.official_folders import ready


def write_wav(path, samples, rate=RATE, channels=1, width=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.writeframes(np.asarray(samples, {1: "u1", 2: "<i2"}[width]).tobytes())


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A folder with ten clips of each of ten words, of which the lists name some; written in a shuffled order."""
    monkeypatch.setitem(speech.WORDS, 35, speech.WORDS10)
    rng, place = np.random.default_rng(0), tmp_path / "given" / "speech_commands_v0.02"
    names = [f"{word}/{i:02}.wav" for word in speech.WORDS10 for i in range(10)]
    for k in rng.permutation(len(names)):
        write_wav(place / names[k], rng.integers(-9000, 9000, 12_000 + 100 * (k % 10)))
    (place / LISTS["val"]).write_text("yes/00.wav\nno/03.wav\n")
    (place / LISTS["test"]).write_text("yes/01.wav\ngo/09.wav\n")
    return tmp_path / "given"


def test_clips_are_padded_and_standardised(archive, tmp_path):
    task = ready(Speech(batch_size=5, root=tmp_path / "root", source=str(archive)))
    assert task.counts == {"train": 70, "val": 20, "test": 10}
    stored = task.opened.arrays["x"]
    train = stored[:70].astype(np.float64)
    batch = next(iter(task.test_dataloader()))
    rows = task.opened.index["test"][: len(batch.y)]
    expected = (stored[rows] - train.mean()) / train.std()
    np.testing.assert_allclose(batch.x[..., 0], expected, rtol=1e-4, atol=1e-5)
    assert batch.x.shape[1:] == (SAMPLES, 1)
    first = read_wav(archive / "speech_commands_v0.02" / "down" / "00.wav")
    assert any((row[: len(first)] == first).all() and not row[len(first) :].any() for row in stored)


def test_split_does_not_depend_on_the_order_of_a_folder(archive, tmp_path, monkeypatch):
    before = ready(Speech(batch_size=5, root=tmp_path / "a", source=str(archive))).fingerprint
    order = type(archive).glob
    monkeypatch.setattr(type(archive), "glob", lambda self, name: sorted(order(self, name), reverse=True))
    assert ready(Speech(batch_size=5, root=tmp_path / "b", source=str(archive))).fingerprint == before


def test_all_words_have_the_splits_of_the_lists(archive, tmp_path):
    task = Speech(words=35, batch_size=5, root=tmp_path / "root", source=str(archive))
    splits = task._files(archive / "speech_commands_v0.02")
    assert [f"{p.parent.name}/{p.name}" for p in splits["test"]] == ["go/09.wav", "yes/01.wav"]
    assert [f"{p.parent.name}/{p.name}" for p in splits["val"]] == ["no/03.wav", "yes/00.wav"]
    assert len(splits["train"]) == 96


def test_mfcc_has_161_standardised_frames(archive, tmp_path):
    task = ready(Speech(features="mfcc", batch_size=5, root=tmp_path / "root", source=str(archive)))
    x = torch.cat([batch.x for batch in task.train_dataloader()])
    assert x.shape[1:] == (161, 20)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 1)), torch.ones(20), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 44_100}, "44100 Hz, 1 channel, 16 bits; expected 16000 Hz"),
        ({"channels": 2}, "16000 Hz, 2 channels, 16 bits"),
        ({"width": 1}, "1 channel, 8 bits"),
    ],
)
def test_other_format_is_one_line(tmp_path, arguments, message):
    write_wav(tmp_path / "a.wav", np.zeros(800), **arguments)
    with pytest.raises(DataError, match=message):
        read_wav(tmp_path / "a.wav")


def test_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, np.zeros(800))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"a\.wav: 550 samples of 800"):
        read_wav(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"a\.wav: not a readable wav file"):
        read_wav(path)
    write_wav(path, np.zeros(SAMPLES + 1))
    with pytest.raises(DataError, match="at most 16000"):
        read_wav(path)


def test_missing_word_is_named(archive, tmp_path):
    for path in (archive / "speech_commands_v0.02" / "stop").glob("*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no \.wav file for stop"):
        ready(Speech(batch_size=5, root=tmp_path / "root", source=str(archive)))


def test_made_up_words_differ_in_pitch():
    """Nearest mean spectrum classifies nearly all of them, and two words never share their pitches."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 10
    clips = np.stack([spoken(int(label), rng) for label in labels])
    spectra = np.abs(np.fft.rfft(clips))[:, :4000].reshape(80, 200, 20).mean(-1)
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    means = np.stack([spectra[:40][labels[:40] == word].mean(0) for word in range(10)])
    assert ((spectra[40:] @ means.T).argmax(1) == labels[40:]).mean() > 0.9
    assert np.array_equal(spoken(3, np.random.default_rng(1)), spoken(3, np.random.default_rng(1)))
