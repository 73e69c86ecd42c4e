"""ArcFace's and CLIP's networks in PyTorch with random weights, and the names of their state dictionaries.

Written from the papers (Deng et al. 2019, section 3.1). For CLIP's tower the reference is the one in transformers.
"""

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(after), nn.PReLU(after)
        self.conv2, self.bn3 = nn.Conv2d(after, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    def __init__(self, blocks, widths, stem, width, image_size):
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        before, side = stem, image_size
        self.count = len(blocks)
        for stage, (number, after) in enumerate(zip(blocks, widths, strict=True), start=1):
            layers = [Block(before, after, 2), *(Block(after, after, 1) for _ in range(number - 1))]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            before, side = after, -(-side // 2)
        self.bn2, self.fc = nn.BatchNorm2d(before), nn.Linear(before * side**2, width)
        self.features = nn.BatchNorm1d(width)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in range(1, self.count + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


def random_iresnet(seed: int, blocks, widths, stem, width, image_size) -> IResNet:
    """Return a network in eval mode whose random weights and statistics keep activations at a similar scale."""
    torch.manual_seed(seed)
    net = IResNet(blocks, widths, stem, width, image_size).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor, centre in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0)):
                    tensor.normal_(centre, 0.2)
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0, 0.5)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # Otherwise the residual sums grow.
        for name, parameter in net.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.mul_(0.3)
    return net


def random_clip_tower(seed: int, image_size: int, patch_size: int, hidden: int, layers: int, heads: int, width: int):
    """Return transformers' CLIP image tower with random weights, in eval mode."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, projection_dim=width, num_hidden_layers=layers,
        num_attention_heads=heads, image_size=image_size, patch_size=patch_size, hidden_act="quick_gelu",
    )  # fmt: skip
    net = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
            elif parameter.ndim == 1:
                parameter.normal_(0, 0.1)
            else:
                parameter.normal_(0, 0.7 * parameter[0].numel() ** -0.5)
    return net


def clip_names(net) -> dict[str, torch.Tensor]:
    """Return the tower's weights by the names of CLIP's own state dictionary, as in FaRL's checkpoints."""
    theirs = {name.removeprefix("vision_model."): value for name, value in net.state_dict().items()}
    embeddings = "embeddings."
    ours = {
        "conv1.weight": theirs[embeddings + "patch_embedding.weight"],
        "class_embedding": theirs[embeddings + "class_embedding"],
        "positional_embedding": theirs[embeddings + "position_embedding.weight"],
        "proj": theirs["visual_projection.weight"].T.contiguous(),
    }
    for part in ("weight", "bias"):
        ours[f"ln_pre.{part}"] = theirs[f"pre_layrnorm.{part}"]
        ours[f"ln_post.{part}"] = theirs[f"post_layernorm.{part}"]
        for layer in range(net.config.num_hidden_layers):
            to, source = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            stacked = [theirs[f"{source}self_attn.{one}_proj.{part}"] for one in "qkv"]
            ours[f"{to}attn.in_proj_{part}"] = torch.cat(stacked)
            ours[f"{to}attn.out_proj.{part}"] = theirs[f"{source}self_attn.out_proj.{part}"]
            ours[f"{to}ln_1.{part}"] = theirs[f"{source}layer_norm1.{part}"]
            ours[f"{to}ln_2.{part}"] = theirs[f"{source}layer_norm2.{part}"]
            ours[f"{to}mlp.c_fc.{part}"] = theirs[f"{source}mlp.fc1.{part}"]
            ours[f"{to}mlp.c_proj.{part}"] = theirs[f"{source}mlp.fc2.{part}"]
    return {f"visual.{name}": value for name, value in ours.items()}


def outputs(net, x: np.ndarray) -> np.ndarray:
    """Return a network's outputs for images (N, H, W, 3)."""
    with torch.no_grad():
        output = net(torch.as_tensor(np.moveaxis(x, -1, 1).copy()))
    return (output if isinstance(output, torch.Tensor) else output.image_embeds).numpy()
