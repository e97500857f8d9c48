"""A small network of our own, to be trained from scratch."""

from itertools import pairwise

from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128, 256)  # each block halves 224: the last maps are 7 x 7
CLASSES = 1000
DROPOUT = 0.2  # before the last layer, as in EfficientNet-B0 (Tan and Le 2019)


class BasicCNN(nn.Module):
    """Five blocks of convolution, batch norm (Ioffe and Szegedy 2015), ReLU and max pooling, then
    global average pooling (Lin et al. 2014), dropout and one linear layer.

    float32 [B, 3, H, W], H and W at least 32 → logits [B, 1000]. 0.65 million parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(_block(before, after) for before, after in pairwise((3, *CHANNELS)))
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(CHANNELS[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] → [B, 1000]."""
        means = self.blocks(images).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(means))
        return logits


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),  # batch norm has the bias
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
