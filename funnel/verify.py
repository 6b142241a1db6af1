"""`funnel verify`: whether a home holds what a run from nothing makes of the same data."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from features.errors import InputError
from funnel.pipeline import STEPS, Request, make, stale_steps


def differing_artefacts(request: Request, tell: Callable[[str], None] = print) -> list[str]:
    """The artefacts of a home whose content differs from what is made from nothing, in a scratch
    folder beside them; each is told.

    InputError where the home is not up to date for the request.
    """
    stale = stale_steps(request)
    if stale:
        raise InputError(
            f"{request.home}: {', '.join(stale)} are not up to date with these data, settings and "
            "code; run `funnel run` with the same arguments first."
        )
    differing = []
    with TemporaryDirectory(dir=request.home, prefix=".verify-") as scratch:
        fresh = request.model_copy(update={"home": scratch, "tracking": None, "versions": {}})
        for name in STEPS:
            content = make(name, fresh, lambda _: None).content
            equal = content == request.store.manifest(name).content
            tell(f"{name}: {'equal' if equal else 'differs'}")
            differing += [] if equal else [name]
    return differing


def verify(request: Request) -> bool:
    """Compare a home with a run from nothing, and say what differs."""
    with request.store.locked():
        differing = differing_artefacts(request)
    print(
        f"{Path(request.home)}: differs from a run from nothing in {', '.join(differing)}."
        if differing
        else f"{Path(request.home)}: equal to a run from nothing, artefact by artefact."
    )
    return not differing
