"""The table of networks; a factory is called with the shape of the data and its own parameters."""

from orchestrator.plugins import Registry

MODELS = Registry(
    kind="model",
    group="orchestrator.models",
    table={
        "lenet_300_100": "orchestrator.models.lenet:lenet_300_100",
        "lenet5": "orchestrator.models.lenet:lenet5",
        "convnet": "orchestrator.models.convnet:convnet",
        "vgg16": "orchestrator.models.vgg:vgg16",
        "vgg19": "orchestrator.models.vgg:vgg19",
        "resnet20": "orchestrator.models.resnet_cifar:resnet20",
        "resnet32": "orchestrator.models.resnet_cifar:resnet32",
        "resnet56": "orchestrator.models.resnet_cifar:resnet56",
        "resnet110": "orchestrator.models.resnet_cifar:resnet110",
    },
    supplied=frozenset({"num_classes", "in_channels", "image_size", "architecture"}),
    open_names=True,
    prefixes={"torchvision": "orchestrator.models.torchvision_zoo:torchvision_model"},
)
