import pytest

pytest.register_assert_rewrite('helpers.norm_tester', 'helpers.one_process')
