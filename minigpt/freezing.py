"""Training only a part of a model's parameters."""

from fnmatch import fnmatchcase

from tensor.nn import Module


def freeze(model: Module, patterns: str) -> list[str]:
    """Leave the parameters out of training whose names match one of the ``patterns``, which are
    separated by commas; ``*`` stands for anything: ``transformer.h.0.*,*.bias``.

    Returns their names. ValueError for a pattern that matches none, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matching = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching:
            some = list(parameters)[:4]
            raise ValueError(
                f"freeze={pattern!r} matches no parameter; their names are like {', '.join(some)}"
            )
        frozen += [name for name in matching if name not in frozen]
    if len(frozen) == len(parameters):
        raise ValueError(f"freeze={patterns!r} matches every parameter: nothing is left to train")
    for name in frozen:
        parameters[name].requires_grad = False
    return frozen
