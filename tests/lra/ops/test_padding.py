import torch

from lra.ops.padding import reverse


def test_rows_are_reversed_and_padding_stays():
    x = torch.arange(1.0, 11.0).reshape(2, 5, 1)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    assert reverse(x, mask)[..., 0].tolist() == [[5, 4, 3, 2, 1], [8, 7, 6, 9, 10]]
    assert torch.equal(reverse(reverse(x, mask), mask), x)


def test_gradient_of_reverse():
    x = torch.randn(3, 7, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    assert torch.autograd.gradcheck(lambda x: reverse(x, mask), x)
    assert torch.autograd.gradgradcheck(lambda x: reverse(x, mask), x)
