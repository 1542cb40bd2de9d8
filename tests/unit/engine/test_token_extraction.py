"""In which order images are extracted by processes that know of each other by their files alone."""

from collections.abc import Iterator
from itertools import pairwise

from tove.engine.token_extraction import scattered

IMAGES = 1000


def computed_by_two(first: list[int], second: list[int]) -> int:
    """Count what two compute in step, who see what the other had finished a step before."""
    done: set[int] = set()

    def left(order: list[int]) -> Iterator[int]:
        return (number for number in order if number not in done)

    queues, count = (left(first), left(second)), 0
    while found := [number for queue in queues if (number := next(queue, None)) is not None]:
        done.update(found)
        count += len(found)
    return count


def test_two_that_share_a_folder_seldom_compute_the_same_image():
    first, second = scattered(range(IMAGES)), scattered(range(IMAGES))
    assert sorted(first) == sorted(second) == [*range(IMAGES)]
    turned = [*range(50, IMAGES), *range(50)]  # one order, begun at different places
    assert computed_by_two([*range(IMAGES)], turned) > 1.8 * IMAGES
    assert computed_by_two(first, second) < 1.1 * IMAGES


def test_images_of_a_share_stay_next_to_each_other():
    own = scattered(range(1, IMAGES, 3))
    assert sorted(own) == [*range(1, IMAGES, 3)]
    assert sum(b - a == 3 for a, b in pairwise(own)) > 0.9 * len(own)
