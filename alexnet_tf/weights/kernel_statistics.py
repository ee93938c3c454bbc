"""Statistics of the first layer's kernels, which show whether they were trained."""

import numpy as np


def low_frequency_share(kernel: np.ndarray) -> float:
    """Returns the share of the energy of conv1's kernels that is below 0.2 cycles per pixel.

    Kernels that were trained on photographs are smooth: they have most of their energy there. Independent random
    numbers have about an eighth, the share of the spectrum's area (`noise_share`).
    """
    spectrum = np.abs(np.fft.fft2(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1))) ** 2
    return float(spectrum[..., _low_frequencies(kernel)].sum() / spectrum.sum()) if spectrum.any() else 0.0


def noise_share(kernel: np.ndarray) -> float:
    """Returns the `low_frequency_share` that kernels of independent random numbers have on average."""
    return float(_low_frequencies(kernel).mean())


def _low_frequencies(kernel):
    rows, columns = (np.fft.fftfreq(side) for side in kernel.shape[:2])
    return np.hypot(rows[:, None], columns) < 0.2
