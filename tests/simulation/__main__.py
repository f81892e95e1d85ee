"""`python -m tests.simulation SEED [SEED ...]`: play these schedules and print them."""

import sys

from tests.simulation.schedule import simulate

if __name__ == "__main__":
    for seed in sys.argv[1:]:
        sys.stdout.write(f"{simulate(int(seed))}\n")
