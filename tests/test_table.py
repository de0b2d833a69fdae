"""Text tables."""

from fcam_zoo._table import text_table


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [['name', 'score', 'box'], ['a' * 30, '100000.00', '(1, 2)'], ['b', '1.00', '(0, 0)']]
    lines = text_table(rows, numbers=(1,)).splitlines()
    assert lines[0] == 'name' + ' ' * 32 + 'score  box'
    assert lines[1] == 'a' * 30 + '  100000.00  (1, 2)'
    assert lines[2] == 'b' + ' ' * 36 + '1.00  (0, 0)'


def test_a_row_is_one_line_without_spaces_at_its_end():
    assert text_table([['a', 'b'], ['two\nlines', '']]) == 'a           b\ntwo\\nlines'
