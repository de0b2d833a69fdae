"""Reports as one HTML page."""

from ._write import write_html as write_html
