"""The two small tables are the position bias that the equations define."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gkgnet_hf.modeling.vision_gnn import position_bias, position_bias_reference, sincos_embedding


def as_matrix(tables):
    rows, columns = tables
    return (rows[:, None] + columns).flatten(0, 1)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), quarter=st.integers(1, 20), ratio=st.sampled_from([1, 2, 3, 4])
)
def test_tables_are_the_closed_form_on_any_grid(height, width, quarter, ratio):
    if height < ratio or width < ratio:
        return
    dim = 4 * quarter
    tables = position_bias(torch.zeros(1, dim, height, width, dtype=torch.float64), ratio)
    torch.testing.assert_close(
        as_matrix(tables), position_bias_reference(height, width, dim, ratio), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("side", "dim", "ratio"), [(56, 80, 4), (144, 80, 4), (72, 160, 2), (36, 400, 1)])
def test_float32_tables_are_exact_to_float32(side, dim, ratio):
    tables = position_bias(torch.zeros(1, dim, side, side), ratio)
    assert tables[0].dtype == torch.float32
    torch.testing.assert_close(
        as_matrix(tables).double(), position_bias_reference(side, side, dim, ratio), rtol=0, atol=3e-7
    )


def test_half_precision_features_get_a_float32_bias():
    rows, columns = position_bias(torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16), 2)
    assert rows.dtype == columns.dtype == torch.float32


def test_first_half_of_the_embedding_is_x_and_starts_with_sines():
    embedding = sincos_embedding(2, 3, 8)
    at_y0_x2 = embedding[2]
    assert at_y0_x2[0] == torch.tensor(2.0, dtype=torch.float64).sin()
    assert at_y0_x2[2] == torch.tensor(2.0, dtype=torch.float64).cos()
    assert at_y0_x2[4:6].tolist() == [0, 0]
    assert at_y0_x2[6:8].tolist() == [1, 1]


def test_a_place_is_nearest_to_itself():
    bias = position_bias_reference(6, 6, 16, ratio=1)
    assert torch.equal(bias.argmin(1), torch.arange(36))
