"""``python -m zeitwork.metrics`` prints the table of metrics that the README shows."""

import sys

from zeitwork.metrics.catalogue import markdown

sys.stdout.write(markdown())
