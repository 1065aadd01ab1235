"""The command `instsel`."""
