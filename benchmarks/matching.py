"""The Hungarian matching of a two-stage detector's tokens: of the cheapest queries of each object, and of all.

python benchmarks/matching.py --queries 22223 --objects 20 --images 2
"""

from unittest.mock import patch

import timing
import torch

from oddetr.losses import matching


def main() -> None:
    parser = timing.parser(__doc__, threads=1, rounds=9)
    parser.add_argument("--queries", type=int, default=22223, help="default: the tokens of 800 x 1333 pixels")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # As in training, objects want the same queries.
    shared = torch.rand(1, arguments.images, arguments.queries, 1, device=arguments.device)
    cost = shared + 0.3 * torch.rand(1, arguments.images, arguments.queries, arguments.objects, device=arguments.device)
    counts = (arguments.objects,) * arguments.images

    def everything() -> matching.Solved:
        with patch.object(matching, "MANY", arguments.queries + 1):
            return matching.solve([cost], counts)

    assert everything().assignments[0].equal(matching.solve([cost], counts).assignments[0])
    work = {"the cheapest": lambda: matching.solve([cost], counts), "all": everything}
    taken = timing.in_turns(work, arguments.rounds, device=arguments.device)
    sent = sum(part.numel() for part in matching._wanted(cost, arguments.objects))
    print(f"to the host: {sent:,} numbers of {cost.numel():,}")
    print(", ".join(f"{name}: {time:.1f} ms" for name, time in taken.items()))
    print(f"ratio {taken['the cheapest'] / taken['all']:.2f}")


if __name__ == "__main__":
    main()
