"""What runs lean on: clocks and costs, devices, seeds, processes, progress."""
