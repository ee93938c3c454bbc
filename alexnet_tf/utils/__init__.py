"""Files, messages and the machine: what every part of the package needs."""
