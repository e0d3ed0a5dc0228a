"""Unit tests of code that needs PyTorch; `make check` leaves them to `make test`."""
