"""Attacks on whole commands: kills, full disks."""
