"""The emulator: our `.cu` files compiled by the host's C++ compiler, and run on any CPU."""
