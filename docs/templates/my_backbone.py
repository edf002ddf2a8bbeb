"""A backbone of one's own. Copy this file, change the class and the facts below it, and run

deapcache list backbones --plugin my_backbone.py
deapcache extract --plugin my_backbone.py --backbone my-backbone --dataset scenes
deapcache probe --plugin my_backbone.py --backbone my-backbone --dataset scenes --task boundaries,depth
"""

from torch import Tensor, nn

from deapcache.backbones import register_backbone


class MyBackbone(nn.Module):
    """Four convolutions, each of which halves the resolution: 224 pixels become 14 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32, normalised, to the feature map (B, 14, 14, 64)."""
        return self.layers(images).permute(0, 2, 3, 1)


register_backbone(
    "my-backbone",
    MyBackbone,
    image_size=224,
    grid=14,
    dim=64,
    # weights="my_backbone.safetensors",  # loaded into MyBackbone(); a file beside this one, https:// or hf://
    # mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),  # ImageNet's by default
    # category="self-supervised", training_data="ImageNet", licence="MIT", parameters=45_920,
)
