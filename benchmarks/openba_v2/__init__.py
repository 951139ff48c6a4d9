"""The parts of `paper.py`: the OpenBA-V2 report's numbers, what is measured beside them, a page."""
