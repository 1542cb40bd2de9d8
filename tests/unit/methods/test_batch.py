"""Which of a batch's vision tokens belong to some of its samples."""

import torch

from tove.methods.batch import read_by


def test_samples_of_a_batch_of_unlike_images_read_their_own():
    vision = [torch.full((rows, 4), float(rows)) for rows in (3, 5, 2)]
    samples = [{"views": [0, 1]}, {"views": []}, {"views": [0]}]
    assert [len(image) for image in read_by(vision, samples, [2])] == [2]
    assert [len(image) for image in read_by(vision, samples, [0, 1])] == [3, 5]
    assert read_by(vision, samples, [0, 1, 2]) is vision


def test_samples_without_an_image_read_none_even_where_the_batch_has_one_alone():
    vision = [torch.ones(3, 4)]
    found = read_by(vision, [{"views": [0]}, {"views": []}], [1])
    assert found.shape == (1, 0, 4)
