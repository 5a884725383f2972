"""The table of image sets: factories that return a `Source` of decoded images."""

from orchestrator.plugins import Registry

DATA = Registry(
    kind="data set",
    group="orchestrator.data",
    table={
        "digits": "orchestrator.data.digits:digits",
        "parquet": "orchestrator.data.parquet:parquet",
        "image_folder": "orchestrator.data.image_folder:image_folder",
        "mnist": "orchestrator.data.torchvision_sets:mnist",
        "fashion_mnist": "orchestrator.data.torchvision_sets:fashion_mnist",
        "cifar10": "orchestrator.data.torchvision_sets:cifar10",
        "cifar100": "orchestrator.data.torchvision_sets:cifar100",
        "imagenet": "orchestrator.data.torchvision_sets:imagenet",
    },
    open_names=True,
)
