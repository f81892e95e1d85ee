"""`python -m tests.simulation [--forgetting] [--rough] SEED [SEED ...]`: play these schedules and print them."""

import sys

from tests.simulation.schedule import simulate

if __name__ == "__main__":
    forgets, rough = "--forgetting" in sys.argv, "--rough" in sys.argv
    for seed in filter(str.isdigit, sys.argv[1:]):
        sys.stdout.write(f"{simulate(int(seed), forgets=forgets, rough=rough)}\n")
