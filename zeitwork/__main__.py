"""``python -m zeitwork`` is the ``zeitwork`` command."""

import sys

from zeitwork.cli import main

sys.exit(main())
