"""Every shape in every mode: what the ledger charges is what the model reported, run by run."""

from __future__ import annotations

import pytest

from tests.support.billing import Till
from tests.surfaces.shapes import SHAPES, run

CASES = [pytest.param(name, mode, id=f"{name}-{mode}") for name, shape in SHAPES.items() for mode in shape.modes()]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_each_run_is_charged_what_it_reported(till: Till, name: str, mode: str) -> None:
    """Each model run is charged its reported tokens once, each tool run one call, and no lease stays open."""
    shape = SHAPES[name]
    model = shape.model()
    asked = run(shape, shape.build(model), mode, till.config())
    till.assert_exact()
    assert shape.models * asked == model.calls == len(till.witness.finished("model"))
    assert shape.tools * asked == len(till.witness.finished("tool"))
