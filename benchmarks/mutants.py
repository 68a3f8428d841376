"""What became of the mutants of the last `mutmut run`: one line for each module, then the names of those that survived.

A mutant is killed where a test fails, or none ends in time; it survives where all tests pass, or none runs it.
"""

import subprocess
import sys
from collections import Counter, defaultdict

KILLED = {"killed", "timeout", "segfault"}


def main() -> None:
    command = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    told: dict[str, str] = dict(line.strip().split(": ") for line in lines if ": " in line)
    verdicts = {name: verdict for name, verdict in told.items() if verdict != "not checked"}
    if not verdicts:
        sys.exit("No mutant was run here: run `mutmut run` first.")
    modules: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, verdict in verdicts.items():
        modules[name.partition(".x")[0]][verdict] += 1
    modules["all"] = sum(modules.values(), Counter())
    print(f"{'module':32}{'mutants':>9}{'killed':>9}{'timeouts':>10}{'survivors':>11}{'share':>8}")
    for module, counts in modules.items():
        killed = sum(counts[verdict] for verdict in KILLED)
        left = counts.total() - killed
        share = left / counts.total()
        print(f"{module:32}{counts.total():9}{killed:9}{counts['timeout']:10}{left:11}{share:8.1%}")
    print(f"{len(told) - len(verdicts)} more were not run")
    for name, verdict in verdicts.items():
        if verdict not in KILLED:
            print(f"{verdict}: {name}")


if __name__ == "__main__":
    main()
