"""The table of networks: factories that take the shape of the data and parameters of their own."""

from orchestrator.plugins import Registry

MODELS = Registry(
    kind="model",
    group="orchestrator.models",
    table={
        "lenet_300_100": "orchestrator.models.lenet:lenet_300_100",
        "lenet5": "orchestrator.models.lenet:lenet5",
        "cifar_net": "orchestrator.models.cifar_net:cifar_net",
        "convnet": "orchestrator.models.convnet:convnet",
        "vgg16": "orchestrator.models.vgg:vgg16",
        "vgg19": "orchestrator.models.vgg:vgg19",
        "vgg_like": "orchestrator.models.vgg:vgg_like",
        "alexnet": "orchestrator.models.alexnet:alexnet",
        "resnet20": "orchestrator.models.resnet_cifar:resnet20",
        "resnet32": "orchestrator.models.resnet_cifar:resnet32",
        "resnet56": "orchestrator.models.resnet_cifar:resnet56",
        "resnet110": "orchestrator.models.resnet_cifar:resnet110",
        "resnet164": "orchestrator.models.preactivation:resnet164",
        "wrn_28_10": "orchestrator.models.preactivation:wrn_28_10",
    },
    supplied=frozenset({"num_classes", "in_channels", "image_size", "architecture"}),
    open_names=True,
    prefixes={"torchvision": "orchestrator.models.torchvision_zoo:torchvision_model"},
)
